"""Several clients and a server: the same rounds in PyTorch, by the C on this computer, and as the device's job.

Clients by PyTorch share no code with the compiler; the server is one and the same for all three, and its tests compare
it with ``torch.optim.Adam``.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.compiler.model import UPLOAD, CompiledModel, CompiledTraining
from lab.workloads import cache as cached
from lab.workloads.base import Dataset, Figure, Int8Array, Prepared
from lab.workloads.training import differences, federated, federated_rounds, scratch_images
from lab.workloads.training.federated import (
    AveragingServer,
    Client,
    Federation,
    FloatArray,
    Server,
    SteinOptions,
    SteinServer,
    Turn,
    flat,
    in_memory,
    parted,
    walk,
)
from lab.workloads.training.federated_rounds import FederatedRounds, shared_variables, with_upload
from lab.workloads.training.from_scratch import Arm, Schedule, selection_of, step_figures
from lab.workloads.training.scratch_images import SEED, Parts, augmented, images_of
from lab.workloads.training.transfer import (
    CURVE_POINTS,
    Trained,
    Transfer,
    accuracy_of,
    cache_key,
    compiled,
    from_entry,
    physical,
    prepared_of,
    to_entry,
)

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.host import HostTraining
    from lab.compiler.operations.perturbation import Perturbation


@dataclass(frozen=True)
class Plan:
    """A federation's arm.

    Attributes:
        clients, batch: how many clients, and samples of each in a round.
        server: how that of the method descends.
        passes, sigma: of the method.
    """

    clients: int
    batch: int
    server: SteinOptions
    passes: int
    sigma: float


@dataclass(frozen=True)
class _Task:
    """What the arm's clients and server are made of."""

    variant: Schedule
    arm: Arm
    plan: Plan
    transfer: Transfer
    model: CompiledModel

    @property
    def training(self) -> CompiledTraining:
        if self.model.training is None:
            raise ValueError("compiled for inference only")
        return self.model.training

    @property
    def rate(self) -> float:
        """Of a step on the device: that of the clients' own steps, or the weight of a sample in a mean."""
        return self.variant.rate if self.transfer.perturbation is None else 1 / self.plan.batch

    @property
    def federation(self) -> Federation:
        steps = len(self.transfer.samples) * self.transfer.epochs
        return Federation(self.plan.clients, self.plan.batch, steps, SEED)


def prepare_federated(workload: str, variant: Schedule, arm: Arm, plan: Plan, cache: Path) -> Prepared:
    """Compile one arm and take all rounds on this computer, or read all of it from the cache.

    Raises:
        ConfigError: no data.
        CompileError: the network cannot be compiled so.
    """
    images, options = images_of(variant), asdict(variant)
    own = (Path(federated.__file__), Path(federated_rounds.__file__), Path(__file__))
    key = cache_key(options, images.digest, *scratch_images.sources(), *own, *arm.sources)
    entry = cached.obtain(
        cache / "workloads", workload, key, lambda: _produce(workload, variant, arm, plan, images.parts())
    )
    trained, uploads = from_entry(entry), entry.arrays["uploads"].astype(np.float32)
    is_method, rounds = arm.perturbation is not None, len(trained.losses) // (plan.clients * plan.batch)
    made = prepared_of(
        trained, "", Dataset(images.name, images.digest, len(trained.answers), images.note),
        {name: str(value) for name, value in options.items()}, precision="float32", epochs=arm.repeats(variant.epochs),
        rate=1 / plan.batch if is_method else variant.rate, seed=SEED, target_accuracy=variant.target,
        figures=tuple(Figure(**one) for one in json.loads(entry.document)["figures"]),
        must_learn=arm.is_method, limits=arm.limits,
    )  # fmt: skip
    server = f"{plan.server.optimizer} at rate {plan.server.rate:g}" if is_method else "averaging of weights"
    fact = (
        f"{arm.title}, from scratch, {plan.clients} clients and a server ({server}), {rounds} rounds of {plan.batch} "
        f"samples of each, {arm.how}."
    )
    training = trained.training
    begun = _device_order(training, trained.initial)
    rounds_of = FederatedRounds(
        Federation(plan.clients, plan.batch, len(trained.losses), SEED), training,
        lambda: server_of(plan, training, begun, is_method=is_method), uploads,
    )  # fmt: skip
    if made.training is None:
        raise ValueError("a federation trains")
    return replace(made, facts=(fact, *made.facts[1:]), training=replace(made.training, rounds=rounds_of))


def server_of(plan: Plan, training: CompiledTraining, weights: FloatArray, *, is_method: bool) -> Server:
    """The server at its beginning, with these weights."""
    if not is_method:
        return AveragingServer(weights)
    counts = [math.prod(one.shape) for one in shared_variables(training)]
    return SteinServer(weights, counts, plan.sigma, plan.server)


def _produce(workload: str, variant: Schedule, arm: Arm, plan: Plan, parts: Parts) -> cached.Entry:
    from lab.workloads.fitting import seeded

    with seeded(SEED):
        network = arm.network()
        task = _task(workload, variant, arm, plan, parts, network)
        start = task.training.to_torch(with_upload(task.training, _begun(task, network)))
        begun = _device_order(task.training, start)
        with progress.step(f"{workload}: rounds in PyTorch", quiet_below_s=2.0):
            server = server_of(plan, task.training, begun, is_method=arm.perturbation is not None)
            walked = walk(task.federation, server, _torch_client(task, network))
            variables = task.training.to_torch(with_upload(task.training, server.kept))
            accuracy = _accuracy(network, variables, parts)
    with progress.step(f"{workload}: rounds on the host", quiet_below_s=2.0):
        outputs, curve, points = _by_c(task, begun)
    trained = Trained(
        task.model, _bytes_of(task, parts.asked), parts.answers, _bytes_of(task, task.transfer.samples),
        task.transfer.labels.astype(np.int32), walked.losses, variables, start, outputs, accuracy, curve, points,
        math.nan,
    )  # fmt: skip
    figures = (*step_figures(trained), *arm.figures(network, trained))
    entry = to_entry(trained, {"figures": [asdict(one) for one in figures]})
    # Whole weights of every client and round are compared by where they lead, not one by one.
    uploads = walked.uploads if arm.perturbation is not None else walked.uploads[:0]
    return cached.Entry(entry.document, {**entry.arrays, "uploads": uploads})


def _task(workload: str, variant: Schedule, arm: Arm, plan: Plan, parts: Parts, network: nn.Module) -> _Task:
    each = plan.clients * plan.batch
    used = len(parts.samples) // each * each
    parts = replace(parts, samples=parts.samples[:used], labels=parts.labels[:used])
    parts = augmented(parts, variant.epochs) if arm.augments else parts
    transfer = Transfer(
        name=workload, network=network, selection=selection_of(arm.update, network), precision="float32",
        samples=parts.samples, labels=parts.labels, asked=parts.asked, answers=parts.answers,
        calibration=parts.samples[:0], epochs=arm.repeats(variant.epochs), rate=variant.rate, seed=SEED,
        limits=arm.limits, perturbation=None if arm.perturbation is None else arm.perturbation(), uploads=True,
    )  # fmt: skip
    return _Task(variant, arm, plan, transfer, compiled(transfer).compiled)


def _bytes_of(task: _Task, images: torch.Tensor) -> cached.AnyArray:
    return physical(images, task.model, "float32").reshape(len(images), -1)


def _begun(task: _Task, network: nn.Module) -> FloatArray:
    real = {one.name: network.get_parameter(one.name).detach().numpy() for one in shared_variables(task.training)}
    return _device_order(task.training, real)


def _device_order(training: CompiledTraining, real: Mapping[str, FloatArray]) -> FloatArray:
    return np.concatenate([in_memory(one, real[one.name]) for one in shared_variables(training)])


def _accuracy(network: nn.Module, variables: Mapping[str, FloatArray], parts: Parts) -> float:
    import torch

    from lab.workloads.networks import logits

    network = copy.deepcopy(network)
    names = [name for name, _ in network.named_parameters() if name in variables]
    own = {name: torch.from_numpy(variables[name].copy()) for name in names}
    network.load_state_dict(own, strict=False)
    return float(np.mean(logits(network, parts.asked).numpy().argmax(axis=1) == parts.answers))


# ---- clients by PyTorch -------------------------------------------------------------------------------------------


def _torch_client(task: _Task, network: nn.Module) -> Client:
    perturbation = task.transfer.perturbation
    return _averaging(task, network) if perturbation is None else _probing(task, network, perturbation)


def _probing(task: _Task, network: nn.Module, perturbation: Perturbation) -> Client:
    """Probes the losses of its batch; moves nothing."""
    import torch

    variables = shared_variables(task.training)

    def client(weights: FloatArray, turn: Turn) -> tuple[FloatArray, FloatArray]:
        samples, labels = _batch(task, turn)
        directions = differences.directions_of(variables, perturbation.passes, turn.key)
        with torch.no_grad():
            real = _real(task, weights)
            base, moved = differences.probed(network, real, directions, perturbation.sigma, samples, labels)
            return base.numpy(), (moved - base).mean(1).numpy()

    return client


def _averaging(task: _Task, network: nn.Module) -> Client:
    """Takes steps of its own by autograd and sends its variables."""
    import torch

    def client(weights: FloatArray, turn: Turn) -> tuple[FloatArray, FloatArray]:
        own = copy.deepcopy(network)
        parameters = {name: own.get_parameter(name) for name in task.transfer.selection}
        for name, value in _real(task, weights).items():
            parameters[name].data = value
        optimizer, losses = torch.optim.SGD(parameters.values(), lr=task.rate), []
        for sample, label in zip(*_batch(task, turn), strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(own(sample[None]), label[None])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        found = {name: one.detach().numpy() for name, one in parameters.items()}
        return np.array(losses, np.float32), _device_order(task.training, found)

    return client


def _real(task: _Task, weights: FloatArray) -> dict[str, torch.Tensor]:
    import torch

    raw = with_upload(task.training, weights)
    real = task.training.to_torch(raw)
    return {one.name: torch.from_numpy(real[one.name].copy()) for one in shared_variables(task.training)}


def _batch(task: _Task, turn: Turn) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    first = turn.first % len(task.transfer.samples)
    chosen = slice(first, first + turn.last - turn.first)
    return task.transfer.samples[chosen], torch.from_numpy(task.transfer.labels[chosen])


# ---- clients by the C ---------------------------------------------------------------------------------------------


def _by_c(task: _Task, begun: FloatArray) -> tuple[Int8Array, FloatArray, npt.NDArray[np.int64]]:
    """Outputs after all rounds by the C on this computer, and the accuracy along the way with its steps."""
    from lab.compiler.host import HostTraining as Host

    federation, training = task.federation, task.training
    server = server_of(task.plan, training, begun, is_method=task.transfer.perturbation is not None)
    each = task.plan.clients * task.plan.batch
    points = np.unique(np.linspace(0, federation.rounds, CURVE_POINTS + 1).astype(np.int64)) * each
    curve = list[float]()
    with tempfile.TemporaryDirectory() as at:
        host = Host(task.model, Path(at))
        inputs = physical(task.transfer.asked, task.model, "float32")

        def answers() -> Int8Array:
            host.write(parted(shared_variables(training), server.kept))
            return host.run(inputs).reshape(len(inputs), -1).view(np.int8)

        def client(weights: FloatArray, turn: Turn) -> tuple[FloatArray, FloatArray]:
            if turn.first in points:
                curve.append(accuracy_of(answers(), task.transfer.answers))
            return _c_turn(task, host, weights, turn)

        walk(federation, server, client)
        outputs = answers()
    curve.append(accuracy_of(outputs, task.transfer.answers))
    return outputs, np.array(curve, np.float32), points


def _c_turn(task: _Task, host: HostTraining, weights: FloatArray, turn: Turn) -> tuple[FloatArray, FloatArray]:
    """What a device does."""
    samples, labels = _batch(task, turn)
    inputs, targets = physical(samples, task.model, "float32"), labels.numpy().astype(np.int32)
    host.write(with_upload(task.training, weights))
    host.state.random = turn.key
    losses = [host.step(inputs[n : n + 1], targets[n : n + 1], task.rate) for n in range(len(inputs))]
    raw = host.raw_variables()
    uploaded = [one for one in task.training.variables if one.name == UPLOAD] or shared_variables(task.training)
    return np.array(losses, np.float32), flat(uploaded, raw)
