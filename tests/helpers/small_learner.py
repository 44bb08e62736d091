"""A class learner in small: an extractor of one convolution, made and quantised in a second, and classes of noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lab.compiler import compile_with_reference
from lab.compiler.model import CompiledModel
from lab.workloads.continual.codes import Codec, StoreKind, codec_of
from lab.workloads.continual.learner_plan import Plan, Rehearsal
from lab.workloads.continual.reference import Stream

Int8Array: TypeAlias = npt.NDArray[np.int8]

CLASSES, SHOTS = 4, 3
SIDE = 6


@dataclass(frozen=True)
class SmallTask:
    """An extractor with samples of each class.

    Attributes:
        extractor: int8 inference of one sample.
        inputs: int8 (classes, shots, side, side, 1).
        latents: int8 (classes, shots, elements), by the integer reference.
    """

    extractor: CompiledModel
    inputs: Int8Array
    latents: Int8Array

    def codec(self, kind: StoreKind, dimension: int = 8) -> Codec:
        """A codec that has learnt from these very latents."""
        rows = self.latents.reshape(-1, self.latents.shape[-1])
        return codec_of(kind, self.extractor.output, rows, dimension, 1)

    def stream(self, codec: Codec | None = None) -> Stream:
        """One replica, class after class; ``codec`` says what the store makes of latents."""
        fresh = self.extractor.output.dequantize(self.latents)[None]
        kept = fresh
        if codec is not None:
            rows = [[codec.decode(codec.encode(one)) for one in shots] for shots in self.latents]
            kept = np.array([rows], np.float32)
        labels = torch.arange(CLASSES)[:, None].expand(CLASSES, SHOTS)
        return Stream(torch.from_numpy(fresh), torch.from_numpy(kept), labels, np.ones((CLASSES, SHOTS), bool))


def plan(rehearsal: Rehearsal, pool_bytes: int, epochs: int = 1) -> Plan:
    """Sizes of the small task."""
    return Plan(rehearsal, CLASSES, SHOTS, 4, epochs, CLASSES * SHOTS, pool_bytes)


@cache
def small_task() -> SmallTask:
    """The same at every call."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.ReLU()).eval()
    generator = np.random.default_rng(3)
    centres = generator.standard_normal((CLASSES, 1, SIDE, SIDE))
    samples = (centres + 0.4 * generator.standard_normal((CLASSES, SHOTS, SIDE, SIDE))).astype(np.float32)
    images = torch.from_numpy(samples).flatten(0, 1)[:, None]
    model, integer = compile_with_reference(network, images[:1], calibration=images, name="small")
    inputs = model.input.quantize(samples[..., None])
    latents = integer.run_integer(inputs.reshape(-1, SIDE, SIDE, 1)).reshape(CLASSES, SHOTS, -1)
    return SmallTask(model, inputs, latents)
