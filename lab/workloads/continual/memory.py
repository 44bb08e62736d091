"""Training memory of a learner by the definitions in use (:mod:`lab.compiler.memory_definitions`).

Here a linear classifier is trained behind a frozen extractor, so each definition comes down to a few sizes. What is
kept for rehearsal is in none of M1 to M3; LifeLearner's own table counts it, and so does M4, what the firmware has.
"""

from __future__ import annotations

import math

from lab.compiler.model import CompiledModel, CompiledTraining
from lab.workloads.base import Figure
from lab.workloads.continual.learner_plan import BIAS, UNITS, WEIGHT

FLOAT_BYTES = 4


def memory_figures(extractor: CompiledModel, training: CompiledTraining, elements: int) -> tuple[Figure, ...]:
    """M1 to M4 in bytes and LifeLearner's own, at batch 1.

    Args:
        extractor: int8 inference of one sample.
        training: of the learner.
        elements: of a latent.
    """
    units = sum(one.size_bytes for one in training.variables if one.name.startswith(UNITS))
    head = units + sum(one.size_bytes for one in training.variables if one.name in (WEIGHT, BIAS))
    kept = training.variables_bytes - head
    working = FLOAT_BYTES * max(math.prod(one.input_shape) + math.prod(one.output_shape) for one in extractor.layers)
    inference = extractor.arena_bytes
    frozen = extractor.weights_bytes
    return (
        Figure("memory.m1", elements + units // FLOAT_BYTES, "bytes",
               "extra memory (MCUNetV3's analysis): the int8 input of what is learnt, and a byte for each weight of "
               "attentive units"),
        Figure("memory.m2", working + FLOAT_BYTES * elements + head + frozen, "bytes", "TinyTL's profiler, at batch 1"),
        Figure("memory.m3", 2 * head + max(working, FLOAT_BYTES * elements), "bytes",
               "TinyTrain's backward memory, sgd, at batch 1"),
        Figure("memory.m4", training.arena_bytes + training.variables_bytes, "bytes",
               "planned arena of a step, classifier and store: what the firmware has"),
        Figure("memory.paper", frozen + 2 * head + inference + kept, "bytes",
               "as LifeLearner's table 1 counts: parameters, optimiser, activations and what is kept for rehearsal"),
    )  # fmt: skip
