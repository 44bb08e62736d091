"""SparCL on this computer: the same steps in PyTorch by masks over dense weights, and the C's own.

PyTorch's version is written as the method's authors have it, autograd over whole weights that masks keep at zero; the
device's keeps blocks and nothing else. Imports torch: import it only where something is prepared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab import progress
from lab.compiler.host import HostTraining
from lab.compiler.operations.block_sparse import BLOCK, GROWTH, LEAST_THRESHOLD
from lab.compiler.operations.replay import Replay
from lab.compiler.program import Program, TrainingState
from lab.compiler.training import TrainingModel
from lab.compiler.training_passes.block_sparse import BLOCKS, THRESHOLD, Blocks
from lab.compiler.training_passes.replay import LOGITS, NEXT
from lab.workloads.base import FloatArray, Int8Array
from lab.workloads.continual.sparcl_networks import MEANS, Norm, Size, class_means, compiled, network
from lab.workloads.continual.sparcl_stream import SEED, IntArray, Rehearsal, Stream, rounds, walk
from lab.workloads.data import digits
from lab.workloads.fitting import seeded
from lab.workloads.training.few_shot import PrototypeNet
from lab.workloads.training.transfer import Trained, accuracy_of

ASKED_AT_ONCE = 50


@dataclass(frozen=True)
class Learnt:
    """What came of a stream on this computer.

    Attributes:
        trained: as other training workloads have it; ``samples`` are the stream's, each once.
        order: the samples of the steps, one after another.
        step_macs: of one step, forward and backward.
        orders: accuracies of the C on this computer, one for each order of the classes.
        forgetting: mean over the earlier tasks of what their accuracy has fallen by since they were learnt.
    """

    trained: Trained
    order: list[int]
    step_macs: int
    orders: list[float]
    forgetting: float


def to_torch(samples: FloatArray) -> torch.Tensor:
    """Samples (n, …) as a device takes them, as a network does: colours first."""
    found = torch.from_numpy(samples)
    return found.permute(0, 3, 1, 2) if found.dim() == 4 else found


# ---- the same steps in PyTorch ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What is compiled, and how it learns.

    Attributes:
        size, hidden: which network.
        blocks: what its weights keep.
        plan: of the stream.
        step_rate: learning rate of a step's gradient.
        replay: logits that are stored and rehearsed; None for labels alone.
        norm: of the network.
    """

    size: Size
    hidden: int
    blocks: Mapping[str, Blocks]
    plan: Rehearsal
    step_rate: float
    replay: Replay | None = None
    norm: Norm = "single"

    def of_order(self, number: int) -> Recipe:
        """The same with another luck of the buffer: over one that all orders share nothing is averaged."""
        seed = self.plan.seed + number
        replay = None if self.replay is None else replace(self.replay, seed=seed)
        return replace(self, plan=replace(self.plan, seed=seed), replay=replay)

    def compiled(self) -> TrainingModel:
        """The program."""
        plan = self.plan
        return compiled(self.size, self.hidden, self.blocks, self.replay, plan.group, self.norm, plan.rows)

    def network(self) -> nn.Module:
        """As it is compiled."""
        return network(self.size, self.hidden, self.blocks, self.norm)


class Masked:
    """SparCL's steps by autograd over dense weights.

    Args:
        start: the network, with the values it is compiled with; changed.
        recipe: how it learns.
        program: the same network compiled, of which the first block numbers are taken, and in which order weights are
            updated: random numbers are drawn in it.
    """

    def __init__(self, start: nn.Module, recipe: Recipe, program: Program) -> None:
        self.network, self._recipe = start.train(recipe.norm == "batch"), recipe
        self._blocks = blocks = recipe.blocks
        self._optimizer = torch.optim.SGD(start.parameters(), lr=recipe.step_rate)
        self._optimizer.zero_grad()
        self._state = TrainingState(recipe.step_rate, 0, SEED)
        self._kept = torch.zeros(recipe.plan.buffer, digits.CLASSES)
        first = program.initial_memory()
        self.places = {name: first[name + BLOCKS].to(torch.int64).clone() for name in blocks}
        self._thresholds = {name: np.float32(float(first[name + THRESHOLD])) for name in blocks}
        self._turns = [name for step in program.steps for name in blocks if name + BLOCKS in step.outputs]
        self._masks: dict[str, torch.Tensor] = {}
        self._sizes: dict[str, torch.Tensor] = {}
        for name in blocks:
            self._mask(name)
            start.get_parameter(name).data *= self._masks[name]
            start.get_submodule(name.removesuffix(".weight")).register_forward_hook(self._sized(name))

    def _sized(self, name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        """Keeps the sizes of the gradients of a layer's outputs, summed over samples and map."""

        def keep(gradient: torch.Tensor) -> None:
            self._sizes[name] = gradient.abs().transpose(0, 1).reshape(gradient.shape[1], -1).sum(1)

        def hook(layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
            if output.requires_grad:
                output.register_hook(keep)  # type: ignore[no-untyped-call]

        return hook

    def _mask(self, name: str) -> None:
        """1 where a weight is kept, and awake in the next step."""
        shape, kept = self.network.get_parameter(name).shape, self.places[name].shape[1]
        places = self.places[name][:, : self._blocks[name].renewal.awake(kept, self._state.step + 1)]
        awake = torch.zeros(len(places), shape[1] // BLOCK).scatter(1, places, 1.0)
        self._masks[name] = _from_rows(awake.repeat_interleave(BLOCK, 1), shape)

    def step(self, samples: FloatArray, labels: IntArray) -> float:
        """Learn the samples of a step; their cross entropy before, in the mean."""
        self._state.step += 1
        logits = self.network(to_torch(samples))
        entropy = functional.cross_entropy(logits, torch.from_numpy(labels))
        names, parameters = zip(*self.network.named_parameters(), strict=True)
        found = torch.autograd.grad(self._loss(logits, entropy), parameters)
        gradients = dict(zip(names, found, strict=True))
        passed = {name: self._mask_gradient(name, gradients[name]) for name in self._blocks}
        for name, parameter in self.network.named_parameters():
            parameter.grad = gradients[name] if parameter.grad is None else parameter.grad + gradients[name]
        if self._state.step % self._recipe.plan.group == 0:
            self._optimizer.step()
            self._optimizer.zero_grad()
        for name in self._turns:
            self._follow(name, passed[name])
            self._renew(name)
        return float(entropy.detach())

    def _loss(self, logits: torch.Tensor, entropy: torch.Tensor) -> torch.Tensor:
        """The step's part of the loss of Buzzega et al. 2020, equation 6 (DER++); keeps logits of what is new."""
        replay, turns, rows = self._recipe.replay, self._recipe.plan.turns, self._recipe.plan.rows
        if replay is None:
            return entropy
        numbers = range((self._state.step - 1) * rows + 1, self._state.step * rows + 1)
        draw, slots = turns.draw_of(numbers[0]), [turns.slot(one) for one in numbers]
        if draw == 0:
            for slot, own in zip(slots, logits.detach(), strict=True):
                if slot < len(self._kept):
                    self._kept[slot] = own
        if draw == 1:
            return replay.distil * functional.mse_loss(logits, self._kept[slots])
        return replay.rehearse * entropy if draw else entropy

    def _mask_gradient(self, name: str, gradient: torch.Tensor) -> int:
        """Leave of a weight's gradient what its masks let through; yields how many outputs change."""
        changed = self._sizes[name] > float(self._thresholds[name])
        gradient *= self._masks[name] * changed.reshape(-1, *[1] * (gradient.dim() - 1))
        return int(changed.sum())

    def _follow(self, name: str, passed: int) -> None:
        share, threshold = self._blocks[name].changed, self._thresholds[name]
        if share == 1.0:
            return
        if passed > max(1, round(share * len(self._sizes[name]))):
            self._thresholds[name] = threshold * GROWTH
        elif threshold > LEAST_THRESHOLD:
            self._thresholds[name] = threshold / GROWTH

    def _renew(self, name: str) -> None:
        renewal, step = self._blocks[name].renewal, self._state.step
        if not renewal.moves(step):
            return
        weight, places = self.network.get_parameter(name), self.places[name]
        rows = _to_rows(weight.data).clone().view(len(places), -1, BLOCK)
        index = places[:, :, None].expand(-1, -1, BLOCK)
        kept = rows.gather(1, index).reshape(len(places), -1)
        renewal.follow(kept, places, rows.shape[1], self._state)
        index = places[:, :, None].expand(-1, -1, BLOCK)
        rows = torch.zeros_like(rows).scatter(1, index, kept.view(len(places), -1, BLOCK))
        weight.data.copy_(_from_rows(rows.reshape(len(places), -1), weight.shape))
        self._mask(name)

    def values(self) -> dict[str, FloatArray]:
        """What the device has behind a whole batch: parameters, of weights with blocks what is kept, block numbers,
        thresholds, and what is stored to be rehearsed.
        """
        found: dict[str, FloatArray] = {}
        for name, parameter in self.network.named_parameters():
            value = parameter.detach()
            if name in self.places:
                index = self.places[name][:, :, None].expand(-1, -1, BLOCK)
                rows = _to_rows(value)
                value = rows.view(len(rows), -1, BLOCK).gather(1, index).reshape(len(rows), -1)
            found[name] = value.numpy().copy()
        for name, places in self.places.items():
            found[name + BLOCKS] = places.numpy().astype(np.float32)
            found[name + THRESHOLD] = np.full(1, self._thresholds[name], np.float32)
        if self._recipe.norm == "batch":
            statistics = {name: one for name, one in self.network.named_buffers() if one.dim()}
            found |= {name: one.numpy().copy() for name, one in statistics.items()}
        if self._recipe.plan.group > 1:
            found |= {name + NEXT: found[name].copy() for name, _ in self.network.named_parameters()}
        if self._recipe.replay is not None:
            found[LOGITS] = self._kept.numpy().copy()
        return found

    def accuracy(self, stream: Stream) -> float:
        """Share of the questions that are answered right, batch norm by running statistics."""
        self.network.eval()
        with torch.no_grad():
            parts = torch.split(to_torch(stream.questions), ASKED_AT_ONCE)
            told = torch.cat([self.network(one).argmax(1) for one in parts]).numpy()
        return float((told == stream.answers).mean())


def _to_rows(weight: torch.Tensor) -> torch.Tensor:
    """A weight as (rows, inputs), of a convolution a row for each tap of each output."""
    ordered = weight.permute(0, 2, 3, 1) if weight.dim() == 4 else weight
    return ordered.reshape(-1, weight.shape[1])


def _from_rows(rows: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The weight of that shape whose rows these are."""
    if len(shape) == 2:
        return rows
    return rows.reshape(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)


# ---- what is learnt -----------------------------------------------------------------------------------------------


def learn(recipe: Recipe, streams: Sequence[Stream]) -> Learnt:
    """Learn the first stream in PyTorch and by the C, and the others, which have other orders, by the C alone.

    Args:
        recipe: how they are learnt.
        streams: what is learnt.
    """
    stream = streams[0]
    made = recipe.compiled()
    with seeded(SEED), progress.step("sparcl: learning in PyTorch", quiet_below_s=2.0):
        masked = Masked(recipe.network(), recipe, made.program)
        initial, losses = masked.values(), []

        def step(samples: list[int]) -> float:
            losses.append(masked.step(stream.samples[samples], stream.labels[samples]))
            return losses[-1]

        order = walk(stream, recipe.plan, step)
    with progress.step(f"sparcl: {len(streams)} orders on the host", quiet_below_s=2.0):
        runs = _on_host(made, recipe, streams)
    theirs = _InPyTorch(order, losses, initial, masked.values(), masked.accuracy(stream))
    return _learnt(made, stream, theirs, runs, recipe.plan.rows)


@dataclass(frozen=True)
class _InPyTorch:
    """The same steps in PyTorch: order, losses, what the device has before and after, accuracy afterwards."""

    order: list[int]
    losses: list[float]
    initial: Mapping[str, FloatArray]
    variables: Mapping[str, FloatArray]
    accuracy: float


@dataclass(frozen=True)
class _HostRun:
    """A stream learnt by the C: answers before and after each task, (questions, bytes), and the steps by then."""

    outputs: tuple[Int8Array, ...]
    steps: tuple[int, ...]
    forgetting: float


def _on_host(made: TrainingModel, recipe: Recipe, streams: Sequence[Stream]) -> list[_HostRun]:
    """The streams by the C, each with a luck of its own; where the device draws, that is compiled in."""
    runs: list[_HostRun] = []
    with TemporaryDirectory() as at:
        host = HostTraining(made.compiled, Path(at))
        for number, stream in enumerate(streams):
            own = recipe.of_order(number)
            if number and own.replay is not None:
                host = HostTraining(own.compiled().compiled, Path(at))
            runs.append(_by_host(host, stream, own))
    return runs


def _by_host(host: HostTraining, stream: Stream, recipe: Recipe) -> _HostRun:
    host.reset()
    host.state.random = SEED
    targets = stream.labels.astype(np.int32)
    rows = recipe.plan.rows
    outputs, steps = [_answers(host, stream, rows)], [0]
    done = 0

    def step(samples: list[int]) -> float:
        nonlocal done
        done += 1
        return host.step(stream.samples[samples], targets[samples], recipe.step_rate)

    def ask(task: int) -> None:
        outputs.append(_answers(host, stream, rows))
        steps.append(done)

    walk(stream, recipe.plan, step, ask)
    return _HostRun(tuple(outputs), tuple(steps), forgetting(stream, outputs[1:]))


def _answers(host: HostTraining, stream: Stream, rows: int) -> Int8Array:
    """Of each question (questions, bytes), so many at once."""
    asked = stream.questions.reshape(-1, rows, *stream.questions.shape[1:])
    return host.run(asked).reshape(len(stream.questions), -1).view(np.int8)


def forgetting(stream: Stream, outputs: Sequence[Int8Array]) -> float:
    """What the accuracy on each earlier task has fallen by since it was learnt, in the mean.

    Args:
        stream: what was learnt.
        outputs: answers to all questions after each task.
    """
    fallen = []
    for task in range(len(stream.tasks) - 1):
        asked = np.isin(stream.answers, stream.classes_of(task))
        then, now = (accuracy_of(outputs[at][asked], stream.answers[asked]) for at in (task, -1))
        fallen.append(then - now)
    return float(np.mean(fallen))


def _learnt(made: TrainingModel, stream: Stream, theirs: _InPyTorch, runs: Sequence[_HostRun], rows: int) -> Learnt:
    training = made.compiled.training
    if training is None:
        raise ValueError("compiled for inference only")
    curve = [accuracy_of(one, stream.answers) for one in runs[0].outputs]
    trained = Trained(
        made.compiled, stream.questions.reshape(len(stream.questions) // rows, -1), stream.answers, stream.samples,
        stream.labels.astype(np.int32), np.array(theirs.losses, np.float32), theirs.variables, theirs.initial,
        runs[0].outputs[-1].reshape(len(stream.questions) // rows, -1), theirs.accuracy,
        np.array(curve, np.float32), np.array(runs[0].steps), float("nan"),
    )  # fmt: skip
    return Learnt(
        trained=trained,
        order=theirs.order,
        step_macs=training.macs("forward") + training.macs("backward"),
        orders=[accuracy_of(run.outputs[-1], stream.answers) for run in runs],
        forgetting=float(np.mean([run.forgetting for run in runs])),
    )


def average(stream: Stream, samples: int) -> Learnt:
    """The class means alone: one pass, nothing descends, and no order matters."""
    stream = replace(stream, samples=_flat(stream.samples), questions=_flat(stream.questions))
    classes, inputs = len(np.unique(stream.labels)), stream.samples.shape[1]
    made, order = class_means(samples, classes, inputs), rounds(stream)
    module = PrototypeNet(nn.Identity(), torch.zeros(digits.CLASSES, inputs)).requires_grad_(requires_grad=False)
    losses, initial = [], {MEANS: module.prototypes.numpy().copy()}
    for turn, sample in enumerate(order):
        label = int(stream.labels[sample])
        x = torch.from_numpy(stream.samples[sample])
        losses.append(float(functional.cross_entropy(module(x[None]), torch.tensor([label]))))
        module.prototypes[label] += (x - module.prototypes[label]) / (turn // classes + 1)
    answers = module(torch.from_numpy(stream.questions))
    accuracy = float((answers.argmax(1).numpy() == stream.answers).mean())
    outputs = [one.numpy().view(np.int8) for one in (torch.zeros_like(answers), answers)]
    run = _HostRun(tuple(outputs), (0, len(order)), 0.0)
    final = {MEANS: module.prototypes.numpy()}
    return _learnt(made, stream, _InPyTorch(order, losses, initial, final, accuracy), [run], 1)


def _flat(samples: FloatArray) -> FloatArray:
    return samples.reshape(len(samples), -1)
