"""The program of a device that learns class after class: a compiled extractor and ``lab_class_learner.c``.

The extractor is what the compiler yields for inference from int8 to int8. Around it go the learner's variables, its
constants and the plan of one arena, as C; behind the runner's interface a step of training is a class. No torch in
here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.binary_constants import file_name, included, is_binary
from lab.compiler.model import (
    CompiledModel,
    CompiledTraining,
    LayerInfo,
    TensorSpec,
    TrainingStep,
    Variable,
)
from lab.workloads.continual.codes import Codec
from lab.workloads.continual.learner_plan import (
    BIAS,
    COUNTS,
    ENDS,
    LABELS,
    POOL,
    STORE,
    UNITS,
    WEIGHT,
    Plan,
    Rehearsal,
    arena_of,
    live_bytes,
    part_of_inference,
    variables_of,
)
from lab.workloads.parts import as_part

METHODS: Mapping[Rehearsal, str] = {
    "none": "LAB_LEARN_ONLINE",
    "means": "LAB_LEARN_MEANS",
    "latents": "LAB_LEARN_LATENTS",
    "samples": "LAB_LEARN_SAMPLES",
}

Initial: TypeAlias = Mapping[str, npt.NDArray[np.float32]]
Precision: TypeAlias = Literal["int8", "float32"]


def compose(
    extractor: CompiledModel,
    codec: Codec,
    plan: Plan,
    name: str,
    units: Initial | None = None,
    precision: Precision = "int8",
) -> CompiledModel:
    """The learner as a model that is trained on the device.

    Inputs and outputs are of ``plan.shots`` samples: a step is a class.

    Args:
        extractor: inference from int8 to int8; its output is the latent.
        codec: how latents are packed.
        plan: sizes.
        name: C identifier.
        units: what attentive units begin with, by the names of their variables without ``units.``, as PyTorch has them;
            with ``plan.units`` alone.
        precision: in which the extractor computes.
    """
    # Imports torch, which who only lists workloads does not wait for.
    from lab.compiler.emit import digest

    buffers = arena_of(extractor, codec, plan)
    arena_bytes = max(one.offset + one.size for one in buffers)
    variables = variables_of(codec, plan)
    places = {one.name: one.offset for one in buffers}
    sources = {
        "model.h": _header(name, extractor, plan, arena_bytes),
        "model.c": _source(name, extractor, codec, plan, arena_bytes, variables, places, units or {}),
    }
    shots = plan.shots
    return CompiledModel(
        name=name,
        sources=sources,
        input=TensorSpec((shots, *extractor.input.shape), extractor.input.scale, extractor.input.zero_point),
        output=TensorSpec((shots, plan.classes), 1.0, 0, "float32"),
        layers=_layers(extractor, codec, plan, precision),
        buffers=part_of_inference(buffers),
        arena_bytes=arena_bytes,
        lower_bound_bytes=live_bytes(buffers),
        digest=digest(sources),
        training=CompiledTraining(
            steps=_steps(extractor, plan, shots * _head_macs(codec, plan), arena_bytes),
            buffers=buffers,
            arena_bytes=arena_bytes,
            lower_bound_bytes=live_bytes(buffers),
            method="one after another, what inference needs and what rehearsal needs over each other",
            variables=variables,
            target_dtype="int32",
            target_shape=(shots,),
            classes=plan.classes,
            batch=shots,
            optimizer="sgd",
            precision=precision,
        ),
        binaries={**extractor.binaries, **binaries(variables, units or {})},
    )


def binaries(variables: Iterable[Variable], units: Initial) -> dict[str, bytes]:
    """Files that the program of these variables includes: what large arrays of attentive units begin with."""
    large = {_initial_label(one): _laid_out(one, units) for one in _binary_units(variables)}
    return {file_name(label): values.astype("<f4").tobytes() for label, values in large.items()}


def _layers(extractor: CompiledModel, codec: Codec, plan: Plan, precision: Precision) -> tuple[LayerInfo, ...]:
    """The extractor as one layer, and the classifier."""
    shots, elements = plan.shots, codec.elements
    book = 0 if codec.codebook is None else codec.codebook.size
    units = sum(one.size_bytes for one in variables_of(codec, plan) if one.name.startswith(UNITS))
    return (
        LayerInfo("extractor", f"{precision} network", shots * extractor.macs, extractor.weights_bytes,
                  (shots, *extractor.input.shape), (shots, elements)),
        # The codebook lies in flash as weights do, and what attentive units begin with.
        LayerInfo("classifier", "linear", shots * _head_macs(codec, plan), book + units, (shots, elements),
                  (shots, plan.classes)),
    )  # fmt: skip


def _head_macs(codec: Codec, plan: Plan) -> int:
    """Multiply-accumulates of what is learnt, forward, for one sample."""
    if plan.units is None:
        return codec.elements * plan.classes
    return plan.units.macs + plan.units.outputs * plan.classes


def _steps(extractor: CompiledModel, plan: Plan, head: int, arena_bytes: int) -> tuple[TrainingStep, ...]:
    # A step rehearses what came before and itself: half of all classes and half a class, in the mean.
    rehearsed = plan.epochs * head * (plan.classes + 1) if plan.rehearses else 0
    inner = 0 if plan.rehearsal == "means" else 2 * head
    return (
        TrainingStep("extract", "extractor", "forward", plan.shots * extractor.macs, arena_bytes, 0),
        TrainingStep("judge", "classifier and loss", "forward", head, arena_bytes, 0),
        TrainingStep("learn", "inner loop", "backward", inner, arena_bytes, 0),
        TrainingStep("rehearse", "outer loop", "update", rehearsed, arena_bytes, 0),
    )


# ---- C ------------------------------------------------------------------------------------------------------------


def _header(name: str, extractor: CompiledModel, plan: Plan, arena_bytes: int) -> str:
    return f"""/* Learner '{name}', generated by the lab. Do not edit. */
#ifndef LAB_GENERATED_MODEL_H
#define LAB_GENERATED_MODEL_H

#include "lab_model.h"

#define LAB_MODEL_ARENA_BYTES {arena_bytes}u
#define LAB_MODEL_INPUT_BYTES {plan.shots * extractor.input.size}u
#define LAB_MODEL_OUTPUT_BYTES {4 * plan.shots * plan.classes}u

#endif
"""


def _source(
    name: str,
    extractor: CompiledModel,
    codec: Codec,
    plan: Plan,
    arena_bytes: int,
    variables: Sequence[Variable],
    places: Mapping[str, int],
    initial: Initial,
) -> str:
    return "\n".join(
        (
            as_part(extractor, "lab_extractor"),
            '#include "lab_class_learner.h"\n',
            *(_declared(one) for one in variables),
            *_units(plan, variables, initial),
            _codebook(codec),
            _constants(extractor, codec, plan, variables, places),
            _table(variables, initial),
            _FUNCTIONS.replace("@UPDATE@", _UPDATE if plan.rehearses else ""),
            _border(name, extractor, plan, arena_bytes, len(variables)),
        )
    )


def _identifier(variable: Variable) -> str:
    return variable.name.replace(".", "_")


def _declared(variable: Variable) -> str:
    kinds = {LABELS: "uint8_t", POOL: "uint8_t"}
    if variable.name == STORE:
        return f"static lab_learner_store_t {_identifier(variable)};"
    kind = "float" if variable.dtype == "float32" else kinds.get(variable.name, "int32_t")
    return f"static {kind} {_identifier(variable)}[{int(np.prod(variable.shape))}];"


def _codebook(codec: Codec) -> str:
    if codec.codebook is None:
        return ""
    return _array("int8_t", "codebook", [str(value) for value in codec.codebook.ravel().tolist()])


def _array(kind: str, name: str, values: Sequence[str]) -> str:
    lines = [f"    {', '.join(values[at : at + 20])}," for at in range(0, len(values), 20)]
    return "\n".join((f"static const {kind} {name}[{len(values)}] = {{", *lines, "};"))


def _units(plan: Plan, variables: Sequence[Variable], initial: Initial) -> Iterator[str]:
    """Attentive units, and what they begin with, in the order of the device's memory."""
    if plan.units is None:
        return
    own = [one for one in variables if one.name.startswith(UNITS)]
    files = binaries(own, initial)
    for one in own:
        label = _initial_label(one)
        if content := files.get(file_name(label)):
            yield included("float", label, int(np.prod(one.shape)), content)
        else:
            yield _array("float", label, [f"{value:.9e}f" for value in _laid_out(one, initial).ravel().tolist()])
    sizes = asdict(plan.units)
    settings = [f"    .{name} = {value}u," for name, value in sizes.items()]
    pointers = [f"    .{one.name.removeprefix(UNITS)} = {_identifier(one)}," for one in own]
    yield "\n".join(("static const lab_attentive_units_t units = {", *settings, *pointers, "};"))


def _binary_units(variables: Iterable[Variable]) -> list[Variable]:
    return [one for one in variables if one.name.startswith(UNITS) and is_binary(one.size_bytes)]


def _initial_label(variable: Variable) -> str:
    return f"{_identifier(variable)}_initial"


def _laid_out(variable: Variable, initial: Initial) -> npt.NDArray[np.float32]:
    """What a variable begins with, as the device holds it."""
    # Of the device's axes PyTorch's are the permutation, so the way back is its inverse.
    return initial[variable.name.removeprefix(UNITS)].transpose(np.argsort(variable.permutation))


def _constants(
    extractor: CompiledModel, codec: Codec, plan: Plan, variables: Sequence[Variable], places: Mapping[str, int]
) -> str:
    members = {WEIGHT: "weight", BIAS: "bias", COUNTS: "counts", STORE: "store", POOL: "pool", ENDS: "ends",
               LABELS: "labels"}  # fmt: skip
    pointers = {
        members[one.name]: f"{'&' if one.name == STORE else ''}{_identifier(one)}"
        for one in variables
        if one.name in members
    }
    # What a method does without lies at the begin of the arena, where nothing is read of it.
    named = ("latents", "order", "decoded", "errors", "attending", "again", "extractor")
    offsets = {f"{name}_at": f"{places.get(name, 0)}u" for name in named}
    codes = {
        "codebook": "0" if codec.codebook is None else "codebook",
        "elements": f"{codec.elements}u",
        "dimension": f"{codec.dimension}u",
        "centroids": f"{0 if codec.codebook is None else len(codec.codebook)}u",
        "value_bytes": "4u" if codec.wide else "1u",
        "is_sparse": f"{int(codec.sparse)}u",
        "zero_point": str(codec.latent.zero_point),
        "scale": f"{np.float32(codec.latent.scale):.9e}f",
    }
    settings = {
        "method": METHODS[plan.rehearsal],
        "codec": f"{{{', '.join(f'.{key} = {value}' for key, value in codes.items())}}}",
        "units": "0" if plan.units is None else "&units",
        "extract": "infer",
        "sample_bytes": f"{extractor.input.size}u",
        "classes": f"{plan.classes}u",
        "shots": f"{plan.shots}u",
        "batch": f"{plan.batch}u",
        "epochs": f"{plan.epochs}u",
        "capacity": f"{plan.capacity}u",
        "pool_bytes": f"{plan.pool_bytes}u",
    }
    rows = (f"    .{key} = {value}," for key, value in {**settings, **pointers, **offsets}.items())
    return "\n".join(("static const lab_class_learner_t learner = {", *rows, "};\n"))


def _table(variables: Sequence[Variable], initial: Initial) -> str:
    def first(one: Variable) -> str:
        return _initial_label(one) if one.name.removeprefix(UNITS) in initial else "0"

    rows = (
        f'    {{"{one.name}", {"&" if one.name == STORE else ""}{_identifier(one)}, {first(one)}, {one.size_bytes}u}},'
        for one in variables
    )
    return "\n".join((f"static const lab_variable_t variables[{len(variables)}] = {{", *rows, "};\n"))


_UPDATE = """
static void update(uint8_t *arena, lab_training_state_t *state)
{
    lab_learner_update(&learner, arena, state);
}
"""

_FUNCTIONS = """static void learner_infer(const void *input, void *output, uint8_t *arena)
{
    lab_learner_infer(&learner, input, output, arena);
}

/* The extractor's own layers run once for each sample: all of them are one layer here, the classifier another. */
static void learner_infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0u, 1u);
    lab_learner_extract(&learner, input, arena);
    hook(context, 0u, 0u);
    hook(context, 1u, 1u);
    lab_learner_classify(&learner, output, arena);
    hook(context, 1u, 0u);
}

static float forward(const void *sample, const void *target, void *output, uint8_t *arena)
{
    return lab_learner_forward(&learner, sample, target, output, arena);
}

static void backward(const void *sample, const void *target, uint8_t *arena, lab_training_state_t *state)
{
    (void)sample;
    lab_learner_backward(&learner, target, arena, state);
}
@UPDATE@
static float step_profiled(const void *sample, const void *target, void *output, uint8_t *arena,
                           lab_training_state_t *state, lab_layer_hook hook, void *context)
{
    hook(context, 0u, 1u);
    lab_learner_extract(&learner, sample, arena);
    hook(context, 0u, 0u);
    hook(context, 1u, 1u);
    float loss = lab_learner_judge(&learner, sample, target, output, arena);
    hook(context, 1u, 0u);
    hook(context, 2u, 1u);
    backward(sample, target, arena, state);
    hook(context, 2u, 0u);
    hook(context, 3u, 1u);
    lab_learner_update(&learner, arena, state);
    hook(context, 3u, 0u);
    return loss;
}

static const char *const learner_layers[2] = {"extractor", "classifier"};
static const char *const step_names[4] = {"extract", "judge", "learn", "rehearse"};
"""


def _border(name: str, extractor: CompiledModel, plan: Plan, arena_bytes: int, variables: int) -> str:
    return f"""static const lab_training_t training = {{
    .target_bytes = {4 * plan.shots}u,
    .target_classes = {plan.classes}u,
    .variable_count = {variables}u,
    .variables = variables,
    .step_count = 4u,
    .step_names = step_names,
    .forward = forward,
    .backward = backward,
    .update = {'update' if plan.rehearses else '0'},
    .step_profiled = step_profiled,
}};

const lab_model_t lab_model = {{
    .name = "{name}",
    .input_bytes = LAB_MODEL_INPUT_BYTES,
    .output_bytes = LAB_MODEL_OUTPUT_BYTES,
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 2u,
    .layer_names = learner_layers,
    .infer = learner_infer,
    .infer_profiled = learner_infer_profiled,
    .output_scale = 1.0f,
    .output_zero_point = 0,
    .input_scale = {np.float32(extractor.input.scale):.9e}f,
    .input_zero_point = {extractor.input.zero_point},
    .input_is_float = 0u,
    .output_is_float = 1u,
    .training = &training,
}};
"""
