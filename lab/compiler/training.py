"""Training from end to end: module, loss and what may change, to static C with forward, backward and update."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from lab.compiler.channels import Channels
from lab.compiler.driver import check_name, layer_info, tensor_spec
from lab.compiler.emit import Model, binaries, digest, emit
from lab.compiler.graph import to_nhwc
from lab.compiler.joint import Loss, Penalised, export_training
from lab.compiler.lowering import lower
from lab.compiler.memory import Layout, check_limit, kept_for_backward, layout
from lab.compiler.model import (
    CompiledModel,
    CompiledTraining,
    TrainingStep,
    Variable,
)
from lab.compiler.operations.optimizer import Optimizer
from lab.compiler.operations.replay import Replay
from lab.compiler.program import Program, Step, Tensor, Turn, Update
from lab.compiler.training_passes import (
    as_forward,
    block_sparse,
    filter_gradients,
    fold_batch_norm,
    fuse_activation,
    immediate_update,
    in_groups,
    in_turn,
    interleave,
    keep_output,
    pack_masks,
    prune,
    recompute,
    replay_logits,
    running_statistics,
    sparse_update,
    sum_shared,
    to_int8,
    update_each_use,
)
from lab.compiler.training_passes.block_sparse import Blocks
from lab.compiler.training_passes.observe import ClassMeans, class_means, fisher, without_gradient
from lab.compiler.training_passes.running_statistics import by_batch, by_running
from lab.compiler.updates import add_updates
from lab.errors import CompileError

Selection: TypeAlias = Iterable[str] | Mapping[str, Channels | None] | Callable[[str, torch.nn.Parameter], bool]
"""Names of parameters, names with the channels that are trained (``None`` for all), or a predicate over (name,
parameter)."""
Precision: TypeAlias = Literal["float32", "int8"]


@dataclass(frozen=True)
class TrainingModel:
    """A compiled model with what it was made from.

    Attributes:
        compiled: the C and its plan.
        program: every step; ``program.run`` is the reference of the C.
        inference: the forward steps alone.
    """

    compiled: CompiledModel
    program: Program
    inference: Program


def trained_names(module: torch.nn.Module, train: Selection, besides: Sequence[str] = ()) -> list[str]:
    """The parameters a selection means, and those named ``besides``.

    Raises:
        CompileError: a name that is no parameter, or nothing selected.
    """
    parameters = dict(module.named_parameters())
    if callable(train):
        chosen = [name for name, parameter in parameters.items() if train(name, parameter)]
    else:
        chosen = list(train)
    chosen += besides
    for name in chosen:
        if name not in parameters:
            close = ", ".join(sorted(parameters))
            raise CompileError(f"'{name}' is no parameter of {type(module).__name__}", hint=f"it has: {close}")
    if not chosen:
        raise CompileError("no parameter is trained", hint="name at least one, or use compile() without a loss")
    return [name for name in parameters if name in set(chosen)]


def default_target(module: torch.nn.Module, example: torch.Tensor, loss: Loss) -> torch.Tensor:
    """A target the loss takes: labels for cross-entropy, the output's shape for others.

    Raises:
        CompileError: the module returns something else than one tensor.
    """
    with torch.no_grad():
        output = module(example)
    if isinstance(output, Penalised):
        output = output.output
    if not isinstance(output, torch.Tensor):
        raise CompileError(
            f"{type(module).__name__} returns a {type(output).__name__}, the loss takes one tensor",
            hint="return one tensor",
        )
    labelled = isinstance(loss, (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss)) or loss in (
        torch.nn.functional.cross_entropy,
        torch.nn.functional.nll_loss,
    )
    return torch.zeros(len(output), dtype=torch.int64) if labelled else torch.zeros_like(output)


def inference_of(program: Program) -> Program:
    """The forward steps the output needs; batch norms that follow their batches take what they have followed."""
    needed = {program.output}
    kept: list[Step] = []
    for step in reversed([step for step in by_running(program).steps if step.phase == "forward"]):
        if isinstance(step.operation, Update):
            continue
        if needed.intersection(step.outputs):
            kept.append(step)
            needed.update(name for name in step.inputs if name)
    bare = replace(program, loss="", gradients={})
    tensors = {name: tensor for name, tensor in program.tensors.items() if tensor.kind != "target"}
    return replace(bare, tensors=tensors).with_steps(list(reversed(kept)))


def compile_training(
    module: torch.nn.Module,
    example: torch.Tensor,
    *,
    loss: Loss,
    train: Selection,
    optimizer: Optimizer,
    target: torch.Tensor | None = None,
    name: str = "model",
    arena_limit_bytes: int | None = None,
    immediate: bool = True,
    recompute_bytes: int | None = None,
    precision: Precision = "float32",
    calibration: torch.Tensor | None = None,
    means: ClassMeans | None = None,
    observe: Sequence[str] = (),
    patches: Mapping[str, int] | None = None,
    blocks: Mapping[str, Blocks] | None = None,
    forward_only: bool = False,
    each_use: bool = False,
    turns: Mapping[str, Turn] | None = None,
    replay: Replay | None = None,
    group: int = 1,
    batch_norm: bool = False,
) -> TrainingModel:
    """Compile a module for training on the device.

    Args:
        module: network in float32; layers as in ``eval()``.
        example: one batch of inputs; its size is the batch of a training step.
        loss: ``loss(output, target)``, a scalar.
        train: names of the parameters that change, with the channels of each where given, or a predicate over (name,
            parameter).
        optimizer: how they change.
        target: an example target; derived from the loss where it is ``None``.
        name: C identifier of the model.
        arena_limit_bytes: most arena bytes the device offers; no limit where ``None``.
        immediate: whether each gradient is consumed as soon as it exists, rather than all updates at the end.
        recompute_bytes: arena that is to be reached by computing activations again in backward.
        precision: ``int8``: forward in int8 but for the classifier, int8 weights, float32 gradients.
        calibration: inputs that set the ranges of the activations; for int8.
        means: a parameter that follows the mean of each class's features instead of a gradient; float32 only.
        observe: convolutions, with batch norm folded, the Fisher information of whose output channels is summed in
            ``NAME.fisher``; float32 only.
        patches: convolutions whose gradients are computed on patches, with the side of these (gradient filtering);
            float32 only.
        blocks: weights of linear layers and convolutions of which only some blocks are kept, and how these move; plain
            SGD in float32 only.
        forward_only: whether each gradient is computed and applied as soon as the forward pass allows, which is behind
            its layer where layers have losses of their own (``Penalised``) and take detached inputs.
        each_use: with ``forward_only``, whether a parameter that a step uses several times changes after each use, by
            plain SGD, rather than by the sum of their gradients.
        turns: with ``forward_only``, the first and the last step of training in which each parameter changes.
        replay: logits that are stored and rehearsed; cross entropy in float32 only.
        group: steps whose gradients add up before the parameters change; plain SGD in float32 only.
        batch_norm: whether batch norms are in training, too: a step normalises by its batch, whose statistics the
            running ones follow (``NAME.running_mean``, ``NAME.running_var``), and inference normalises by these;
            float32 only.

    Raises:
        CompileError: an operator, dtype or shape that is not supported (with its place in the module), a parameter that
            does not exist, or an arena larger than the limit (with the bytes of every step).
    """
    check_name(name)
    _check_precision(precision, means, observe, patches, batch_norm=batch_norm)
    module, norms = by_batch(module, len(example)) if batch_norm else (module, {})
    besides = [*([] if means is None else [means.parameter]), *(f"{layer}.bias" for layer in observe)]
    if precision == "int8":
        module = fold_batch_norm(module, example, everything=True)
        names = trained_names(module, train)
    else:
        names = trained_names(module, train, besides)
        module = fold_batch_norm(module, example, trained=names)
    labels = default_target(module, example, loss) if target is None else target
    program = fuse_activation(prune(lower(export_training(module, example, labels, loss, names))))
    if precision == "int8":
        program = prune(to_int8(program, _samples(calibration, example)))
    if means is not None:
        program = without_gradient(program, means)
    program = replay_logits(filter_gradients(fisher(program, observe), patches or {}), replay)
    program = keep_output(program)
    program = _with_updates(program, optimizer, immediate=immediate, forward_only=forward_only, each_use=each_use)
    program = block_sparse(program, blocks or {})
    if isinstance(train, Mapping):
        program = sparse_update(program, {name: chosen for name, chosen in train.items() if chosen is not None})
    program = in_groups(program, group, optimizer)
    if means is not None:
        program = class_means(program, means)
    if forward_only:
        program = as_forward(program)
    program = running_statistics(program, norms)
    program = in_turn(program, turns or {})
    if recompute_bytes is not None:
        program = recompute(program, recompute_bytes)
    return assemble(program, name, optimizer.describe(), arena_limit_bytes)


def _check_precision(
    precision: Precision, means: ClassMeans | None, observe: Sequence[str], patches: Mapping[str, int] | None, *,
    batch_norm: bool,
) -> None:  # fmt: skip
    """Refuse in int8 what there is in float32 alone."""
    if precision == "int8" and batch_norm:
        raise CompileError("running statistics follow in float32", hint="precision='float32', or batch_norm=False")
    if precision == "int8" and (means or observe):
        raise CompileError("class means and Fisher information are computed in float32", hint="precision='float32'")
    if precision == "int8" and patches:
        raise CompileError("gradients are filtered in float32", hint="precision='float32'")


def _with_updates(
    program: Program, optimizer: Optimizer, *, immediate: bool, forward_only: bool, each_use: bool
) -> Program:
    """Updates behind the gradients, in the order that is asked for."""
    # Masks are for a backward pass far behind; where it is interleaved the values themselves are still there.
    program = interleave(program) if forward_only else pack_masks(program)
    if each_use:
        return update_each_use(program, optimizer)
    program = add_updates(sum_shared(program), optimizer)
    return immediate_update(program) if immediate or forward_only else program


def _samples(calibration: torch.Tensor | None, example: torch.Tensor) -> list[torch.Tensor]:
    """Calibration inputs one by one, in physical order."""
    if calibration is None:
        raise CompileError(
            "precision int8 needs calibration data", hint="pass calibration=, real inputs stacked along axis 0"
        )
    if calibration.shape[1:] != example.shape[1:] or len(calibration) == 0:
        raise CompileError(
            f"calibration data of shape {tuple(calibration.shape)}, the example is {tuple(example.shape)}",
            hint="give inputs like the example, stacked along axis 0",
        )
    return list(torch.split(to_nhwc(calibration.detach()), 1))


def assemble(program: Program, name: str, optimizer: str, arena_limit_bytes: int | None) -> TrainingModel:
    """Plan and emit a training program."""
    inference = inference_of(program)
    plan, inference_plan = layout(program), layout(inference)
    model = Model(name, inference, inference_plan, program, plan)
    sources = emit(model)
    compiled = CompiledModel(
        name=name,
        sources=sources,
        input=tensor_spec(program.of_kind("input")[0]),
        output=tensor_spec(program.tensors[program.output]),
        layers=tuple(layer_info(inference, step) for step in inference_plan.steps),
        buffers=inference_plan.buffers,
        arena_bytes=model.arena_bytes,
        lower_bound_bytes=max(plan.lower_bound_bytes, inference_plan.lower_bound_bytes),
        digest=digest(sources),
        training=_training(program, plan, optimizer),
        binaries=binaries(model),
    )
    check_limit(program, plan, arena_limit_bytes)
    return TrainingModel(compiled, program, inference)


def _training(program: Program, plan: Layout, optimizer: str) -> CompiledTraining:
    target, sample = program.of_kind("target")[0], program.of_kind("input")[0]
    kept = kept_for_backward(program, plan)
    sizes = {buffer.name: buffer.size for buffer in plan.buffers}
    return CompiledTraining(
        steps=tuple(_step(program, plan, index, kept, sizes) for index in range(len(plan.steps))),
        buffers=plan.buffers,
        arena_bytes=plan.arena_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        method=plan.method,
        variables=tuple(_variable(tensor) for tensor in program.of_kind("parameter", "state")),
        target_dtype=target.dtype,
        target_shape=target.shape,
        classes=program.classes,
        batch=sample.shape[0],
        optimizer=optimizer,
        precision="int8" if sample.dtype == "int8" else "float32",
    )


def _step(program: Program, plan: Layout, index: int, kept: frozenset[str], sizes: dict[str, int]) -> TrainingStep:
    step = plan.steps[index]
    places = {plan.places[name] for name in (*step.inputs, *step.outputs) if name}
    if index in plan.scratch:
        places.add(plan.scratch[index])
    return TrainingStep(
        step.name,
        step.operation.label,
        step.phase,
        step.operation.macs(program.inputs_of(step), program.outputs_of(step)),
        sum(sizes.get(place, 0) for place in places),
        sum(program.tensors[name].size_bytes for name in step.outputs if name in kept),
        step.operation.flop(program.inputs_of(step), program.outputs_of(step)),
        _traffic_bytes(program, step),
    )


def _traffic_bytes(program: Program, step: Step) -> int:
    """Bytes of what a step reads, each tensor once, and of what it writes; of one that it takes a part of, all."""
    read, written = {name for name in step.inputs if name}, set(step.outputs)
    return sum(program.tensors[name].size_bytes for names in (read, written) for name in names)


def _variable(tensor: Tensor) -> Variable:
    permutation = tensor.permutation or tuple(range(len(tensor.shape)))
    torch_shape = tensor.torch_shape or tensor.shape
    return Variable(tensor.name, tensor.dtype, tensor.shape, permutation, torch_shape, tensor.grid)
