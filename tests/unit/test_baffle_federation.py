"""Several clients and a server of baffle: the server by torch's Adam, clients by closed form, the wire, bad input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn

from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.model import Variable
from lab.compiler.operations.perturbation import Perturbation
from lab.compiler.perturbed import compile_perturbed
from lab.compiler.program import TrainingState
from lab.compiler.training_passes.perturb import UPLOAD
from lab.errors import ConfigError, WorkloadError
from lab.events import Job, ResultEvent
from lab.paths import cache_dir
from lab.training import PARAMETERS, Checkpoint, reading
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.training import differences
from lab.workloads.training.baffle import parse
from lab.workloads.training.federated import (
    AveragingServer,
    Federation,
    SteinOptions,
    SteinServer,
    in_memory,
    parted,
    walk,
)
from lab.workloads.training.federated_rounds import FederatedRounds, shared_variables

CLIENTS, BATCH, PASSES = 3, 2, 4
SMALL = f"clients={CLIENTS},batch={BATCH},passes={PASSES},samples=13,epochs=2,evaluated=40,channels=4,target=0.1"
Row = npt.NDArray[np.float32]
ADAM = SteinOptions("adam", 0.01, 0.05, 0.9)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_server_descends_as_torchs_optimisers_do(optimizer: str) -> None:
    """Gradients by a loop over clients, passes and signs; clipped, and averaged as torch's own average does."""
    options, counts, sigma = replace(ADAM, optimizer=optimizer), [5, 40], 0.25
    begun = np.random.default_rng(1).normal(size=45).astype(np.float32)
    server = SteinServer(begun, counts, sigma, options)
    weights = torch.from_numpy(begun.astype(np.float64)).requires_grad_()
    named = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
    rule = named[optimizer]([weights], lr=options.rate)
    average = torch.optim.swa_utils.AveragedModel(
        nn.ParameterList([weights]), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(options.average)
    )
    average.update_parameters(nn.ParameterList([weights]))
    clipped = 0
    for key in (7, 8, 9):
        uploads = np.random.default_rng(key).normal(size=(CLIENTS, PASSES)).astype(np.float32) / 20
        signs = differences.signs(key, PASSES, counts)
        gradient = np.zeros(45)
        for one in uploads:
            for number, difference in enumerate(one):
                row = np.concatenate([part[number] for part in signs]).astype(np.float64)
                gradient += float(difference) / sigma * row / PASSES / CLIENTS
        clipped += int((np.abs(gradient) > options.clip).sum())
        weights.grad = torch.from_numpy(gradient).clamp(-options.clip, options.clip)
        rule.step()
        average.update_parameters(nn.ParameterList([weights]))
        server.take(key, uploads)
    assert clipped > 0
    np.testing.assert_allclose(server.sent, weights.detach().numpy(), rtol=1e-6)
    (kept,) = average.module.parameters()
    np.testing.assert_allclose(server.kept, kept.detach().numpy(), rtol=1e-6)
    assert np.abs(server.kept - server.sent).max() > 1e-4


def test_federated_averaging_is_the_mean_of_clients() -> None:
    server = AveragingServer(np.zeros(2, np.float32))
    server.take(1, np.array([[1, 2], [3, 6]], np.float32))
    assert server.sent.tolist() == server.kept.tolist() == [2, 4]


def test_rounds_give_every_client_its_own_samples_and_all_of_them_one_key() -> None:
    federation = Federation(CLIENTS, BATCH, 2 * CLIENTS * BATCH * 2, seed=3)
    turns = list(federation.turns())
    assert federation.rounds == 4
    assert [(one.first, one.last) for one in turns] == [(2 * n, 2 * n + 2) for n in range(12)]
    assert [one.closes for one in turns] == [False, False, True] * 4
    keys = [{one.key for one in turns[n : n + 3]} for n in range(0, 12, 3)]
    assert all(len(one) == 1 for one in keys)
    assert len(set.union(*keys)) == 4
    per_epoch = 2 * CLIENTS * BATCH
    owners = {sample: {n % CLIENTS for n, one in enumerate(turns) if sample in (one.first % per_epoch, one.last - 1)}
              for sample in range(0, per_epoch, BATCH)}  # fmt: skip
    assert all(len(one) == 1 for one in owners.values()), "an image never changes its client"


def test_parameters_go_to_the_devices_order_and_back() -> None:
    variable = Variable("w", "float32", (3, 2, 2, 4), (0, 3, 1, 2), (3, 4, 2, 2))
    real = np.arange(48, dtype=np.float32).reshape(3, 4, 2, 2)
    assert in_memory(variable, real).tolist() == real.transpose(0, 2, 3, 1).reshape(-1).tolist()
    assert parted([variable], in_memory(variable, real))["w"] == real.transpose(0, 2, 3, 1).tobytes()


@needs_host_compiler
def test_a_client_uploads_the_mean_difference_and_moves_nothing(tmp_path: Path) -> None:
    """A linear layer and a squared error: L(w + σs) − L(w) = σ s·g + σ² (s·x)², for one key and two samples."""
    torch.manual_seed(2)
    module, sigma = nn.Linear(6, 1, bias=False), 0.25
    images = np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    target = np.array([[0.5], [-1.0]], np.float32)
    made = compile_perturbed(
        module, torch.from_numpy(images[:1]), loss=nn.functional.mse_loss, train=["weight"],
        perturbation=Perturbation(5, sigma), uploads=True,
    )  # fmt: skip
    host = HostTraining(made.compiled, tmp_path, flags=("-O1", *TRAP_UNDEFINED))
    weight = module.weight.detach().numpy().astype(np.float64)
    host.state.random = 77
    for n in range(2):
        host.step(images[n : n + 1], target[n : n + 1], 0.5)
    (signs,) = differences.signs(77, 5, [6])
    expected = np.zeros(5)
    for x, wanted in zip(images.astype(np.float64), target, strict=True):
        projected, residual = signs @ x, float(x @ weight[0] - wanted[0])
        expected += 0.5 * (2 * residual * sigma * projected + (sigma * projected) ** 2)
    found = host.variables()
    np.testing.assert_allclose(found[UPLOAD], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["weight"], weight, atol=1e-6)
    assert host.state.random == 77
    memory, state = made.program.initial_memory(), TrainingState(0.5, 0, 77)
    for n in range(2):
        made.program.run(torch.from_numpy(images[n : n + 1]), torch.from_numpy(target[n : n + 1]), memory, state)
    np.testing.assert_allclose(memory[UPLOAD], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("baffle").prepare(cache_dir(), SMALL)


class ByC:
    """A device of the C on this computer, as far as a federation's jobs go."""

    def __init__(self, prepared: Prepared, folder: Path) -> None:
        self.host, self.losses, self.jobs = HostTraining(prepared.model, folder), list[float](), list[str]()
        training = prepared.model.training
        assert training is not None
        self._variables = training.variables

    def run(self, job: Job) -> Sequence[ResultEvent]:
        self.jobs.append(job.name)
        if job.name == "restore":
            data, at = job.blobs["checkpoint"][40:], 0
            for one in self._variables:
                self.host.write({one.name: data[at : at + one.size_bytes]})
                at += one.size_bytes
        elif job.name == "train":
            samples = np.frombuffer(job.blob, np.float32).reshape(job.count, 1, -1)
            targets = np.frombuffer(job.blobs["targets"], np.int32)
            self.host.state.random = int(job.parameters["seed"])
            rate = float(job.parameters["lr"])
            self.losses += [self.host.step(one, targets[n : n + 1], rate) for n, one in enumerate(samples)]
        elif job.parameters:
            place = int(job.parameters["variable"])
            return [ResultEvent(place, self.raw[self._variables[place].name], self._variables[place].name)]
        else:
            saved = Checkpoint("0" * 16, 0, 1, self.raw)
            named = [ResultEvent(n, one, name) for n, (name, one) in enumerate(self.raw.items())]
            return [*named, ResultEvent(len(named), saved.to_bytes()[:40], "lab.checkpoint")]
        return []

    @property
    def raw(self) -> dict[str, bytes]:
        return self.host.raw_variables()


def played(prepared: Prepared, folder: Path) -> tuple[ByC, dict[str, float]]:
    """All rounds, and what they and the variables are judged."""
    plan = prepared.training
    assert plan is not None
    assert plan.rounds is not None
    device, rounds = ByC(prepared, folder), plan.rounds(plan.job)
    named: Sequence[ResultEvent] | None = None
    while True:
        try:
            job = next(rounds) if named is None else rounds.send(named)
        except StopIteration as end:
            scores = [*end.value, *plan.check(np.array(device.losses, np.float32), device.raw)]
            return device, {one.metric: one.value for one in scores}
        named = device.run(job)


@needs_host_compiler
def test_the_rounds_come_to_pytorchs_uploads_and_variables(prepared: Prepared, tmp_path: Path) -> None:
    device, scores = played(prepared, tmp_path)
    turns = 2 * 2 * CLIENTS
    assert device.jobs == ["parameters", *["restore", "train", "parameters"] * turns, "restore"]
    assert scores["upload_error"] < 1e-4
    assert scores["update_error"] < 1e-3
    assert scores["uplink"] == 4 * PASSES
    assert scores["bytes_up"] == turns * 4 * PASSES
    training = prepared.model.training
    assert training is not None
    weights = sum(one.size_bytes for one in shared_variables(training))
    assert scores["bytes_down"] == turns * (40 + weights + 4 * PASSES)


@needs_host_compiler
def test_other_uploads_than_pytorchs_are_refused(prepared: Prepared, tmp_path: Path) -> None:
    plan = prepared.training
    assert plan is not None
    assert isinstance(plan.rounds, FederatedRounds)
    others = replace(plan.rounds, uploads=plan.rounds.uploads * np.float32(1.01))
    with pytest.raises(WorkloadError, match="what clients uploaded differs from PyTorch's by"):
        played(replace(prepared, training=replace(plan, rounds=others)), tmp_path)


@needs_host_compiler
def test_clients_of_federated_averaging_send_their_variables(tmp_path: Path) -> None:
    made = get("baffle").prepare(cache_dir(), f"{SMALL},update=full,rate=0.03")
    device, scores = played(made, tmp_path)
    training = made.model.training
    assert training is not None
    assert scores["update_error"] < 1e-4
    assert scores["uplink"] == training.variables_bytes
    assert device.jobs[:4] == ["parameters", "restore", "train", "parameters"]


def test_a_walk_sends_each_client_what_the_server_has() -> None:
    def client(weights: Row, turn: object) -> tuple[Row, Row]:
        return np.zeros(1, np.float32), weights + 1

    walked = walk(Federation(2, 1, 6, seed=1), AveragingServer(np.zeros(3, np.float32)), client)
    assert walked.uploads[:, :, 0].tolist() == [[1, 1], [2, 2], [3, 3]]
    assert len(walked.losses) == 6


def test_one_variable_is_asked_by_its_place() -> None:
    assert reading(3) == replace(PARAMETERS, parameters={"variable": 3})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("batch=4", "batch=4 is of a server, and there are no clients"),
        ("clip=0", "clip=0.0 is of a server"),
        ("clients=101", "clients=101 is not allowed"),
        ("clients=10,batch=8,samples=79", "a round takes 8 samples of 10 clients each; there are 79"),
        ("clients=2,server=lion", "server=lion is not allowed"),
    ],
)
def test_what_no_federation_can_be_is_refused(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse("baffle", text)
