"""The workload ear: what is a new domain, what an adaptor's size is chosen by, and where gradients and inputs go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import FloatArray, Prepared, Room, Survey, TrainingPlan
from lab.workloads.continual import ear_domains
from lab.workloads.continual import ear_host as host
from lab.workloads.continual.ear import Variant, adaptors_for, check_bundles, domain_scores, parse

SMALL = "shots=4,epochs=4,rate=0.1,evaluated=10,target=0.1"
DOMAINS, DIMENSIONS = ear_domains.DOMAINS, Variant().dimensions
ROOMY = Room(1 << 40, 1 << 40)


@pytest.fixture(scope="module")
def parts() -> host.Parts:
    return host.parts(ear_domains.known_digits(Variant(), cache_dir()), DIMENSIONS)


@pytest.fixture(scope="module")
def enrolling() -> Prepared:
    return get("ear").prepare(cache_dir(), SMALL)


@pytest.fixture(scope="module")
def enrolled(enrolling: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """Variables after the enrolment, by the C on this computer."""
    return run_job(enrolling, survey_of(enrolling).jobs[0], tmp_path_factory.mktemp("enrolment"))[1]


@pytest.fixture(scope="module")
def prepared(enrolling: Prepared, enrolled: Mapping[str, bytes]) -> Prepared:
    return survey_of(enrolling).decide(enrolled, ROOMY)


def survey_of(prepared: Prepared) -> Survey:
    assert prepared.survey is not None
    return prepared.survey


def plan_of(prepared: Prepared) -> TrainingPlan:
    assert prepared.training is not None
    return prepared.training


def run_job(prepared: Prepared, job: Job, folder: Path) -> tuple[FloatArray, Mapping[str, bytes]]:
    trained = HostTraining(prepared.model, folder)
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
    targets = np.frombuffer(job.blobs["targets"], np.int32)
    rate = float(job.parameters["lr"])
    losses = [trained.step(samples[n], targets[n : n + 1], rate) for n in range(job.count)]
    return np.array(losses, np.float32), trained.raw_variables()


# ---- domains ------------------------------------------------------------------------------------------------------


def test_only_bundles_like_none_before_get_an_adaptor() -> None:
    generator = np.random.default_rng(1)
    source, new = (np.where(generator.random(64) < 0.5, 1, -1) for _ in range(2))
    almost = new.copy()
    almost[:3] *= -1
    signs = np.stack([source, new, source, almost, -source])
    assert adaptors_for(signs, 0.8) == (-1, 0, -1, 0, 1)
    assert adaptors_for(signs, 0.99) == (-1, 0, -1, 1, 2)
    with pytest.raises(ConfigError, match="no domain is out of distribution"):
        adaptors_for(signs, -1.5)


def test_material_is_the_same_images_in_each_domain_and_asks_others(parts: host.Parts) -> None:
    drawn = ear_domains.material(parts.domains, 5, 2, 7)
    domains = len(DOMAINS)
    assert drawn.enrolled.shape == (5 * domains, 1, 16, 16)
    assert torch.equal(ear_domains.in_domain(drawn.enrolled[::domains], "faint"), drawn.enrolled[2::domains])
    assert len(drawn.learnt) == len(drawn.labels) == 2 * 5 * (domains - 1)
    learnt = {one.numpy().tobytes() for one in drawn.learnt}
    assert learnt == {one.numpy().tobytes() for n, one in enumerate(drawn.enrolled) if n % domains}
    assert not learnt.intersection(one.numpy().tobytes() for one in drawn.asked)
    assert np.array_equal(drawn.domains, np.repeat(range(domains), 7))
    assert np.array_equal(drawn.answers[:7], drawn.answers[-7:])


def test_hypervectors_tell_domains_apart(parts: host.Parts) -> None:
    drawn = ear_domains.material(parts.domains, 20, 1, 20)
    bundles = host.bundles_of(parts.hypervectors, drawn.enrolled, len(DOMAINS))
    with torch.no_grad():
        vectors = parts.hypervectors(drawn.asked)[1]
    assert vectors.abs().max() <= 1.0
    assert float((vectors.abs() == 1).float().mean()) > 0.9
    told = (vectors.numpy() @ np.sign(bundles).T).argmax(1)
    assert float(np.mean(told == drawn.domains)) > 0.8


# ---- adaptors -----------------------------------------------------------------------------------------------------


def test_the_score_is_the_log_determinant_of_agreement() -> None:
    features = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    same = features.clone()
    same[3:] = same[:3]
    assert host.zero_shot_score(same, 8) < host.zero_shot_score(features, 8) - 10
    # Inputs that no unit tells apart agree in all of them: a matrix of equal elements, and the diagonal that is added.
    ones = host.zero_shot_score(features[:1].repeat(3, 1), 4)
    assert ones == pytest.approx(np.linalg.slogdet(np.full((3, 3), 4.0) + 1e-3 * np.eye(3))[1])
    assert host.chosen_rank(features) in host.RANKS


def two_adaptors(parts: host.Parts) -> tuple[host.Routed, torch.Tensor]:
    generator = np.random.default_rng(3)
    bundles = torch.from_numpy(np.where(generator.random((4, DIMENSIONS)) < 0.5, 1.0, -1.0).astype(np.float32))
    return host.Routed(parts.hypervectors, parts.classifier, bundles, (-1, 0, 1, 1), (4, 8)), bundles


def test_a_routed_network_begins_as_the_frozen_one(parts: host.Parts) -> None:
    network, bundles = two_adaptors(parts)
    images = parts.domains["source"].upright[:6]
    with torch.no_grad():
        outputs = network(images)
        torch.testing.assert_close(outputs[:, :10], parts.network(images))
        similarities = parts.hypervectors(images)[1] @ bundles.T / DIMENSIONS
    torch.testing.assert_close(outputs[:, 10:] + host.ASIDE, similarities, atol=1e-4, rtol=1e-4)
    target = torch.arange(6)
    with torch.no_grad():
        both, plain = (functional.cross_entropy(one, target) for one in (outputs, parts.network(images)))
    assert float(both) == pytest.approx(float(plain), rel=1e-6), "similarities take no part in the loss"


class Fixed(nn.Module):
    """Hypervectors that are a given bundle."""

    def __init__(self, encoder: nn.Module, bundle: torch.Tensor) -> None:
        super().__init__()
        self.encoder, self.bundle = encoder, bundle

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.encoder(x), self.bundle.expand(len(x), -1)


@pytest.mark.parametrize(("domain", "units"), [(0, range(0)), (1, range(4)), (2, range(4, 12)), (3, range(4, 12))])
def test_one_adaptor_answers_and_learns(parts: host.Parts, domain: int, units: range) -> None:
    network, bundles = two_adaptors(parts)
    network.hypervectors = Fixed(parts.hypervectors.encoder, bundles[domain])  # type: ignore[assignment]
    nn.init.normal_(network.up.weight, generator=torch.Generator().manual_seed(4))
    image = parts.domains["source"].upright[:1]
    features = parts.hypervectors.encoder(image)
    chosen = list(units)
    hidden = functional.relu(network.down(features))[:, chosen]
    expected = parts.classifier(features + hidden @ network.up.weight[:, chosen].T)
    outputs = network(image)
    torch.testing.assert_close(outputs[:, :10], expected, atol=1e-4, rtol=1e-4)
    functional.cross_entropy(outputs, torch.tensor([3])).backward()  # type: ignore[no-untyped-call]
    gradient = network.up.weight.grad
    assert gradient is not None
    others = [unit for unit in range(12) if unit not in units]
    assert float(gradient[:, others].abs().sum()) <= 1e-6 * float(gradient.abs().sum()) + 1e-12
    assert bool(gradient[:, chosen].any()) == bool(chosen)


# ---- what a device is held to -------------------------------------------------------------------------------------


def test_the_devices_bundles_are_the_mean_of_pytorchs_hypervectors(
    parts: host.Parts, enrolling: Prepared, enrolled: Mapping[str, bytes]
) -> None:
    drawn = ear_domains.material(parts.domains, 4, 4, 10)
    found = np.frombuffer(enrolled["bundles"], np.float32).reshape(len(DOMAINS), -1)
    assert check_bundles(found, host.bundles_of(parts.hypervectors, drawn.enrolled, len(DOMAINS))).value < 1e-3
    with pytest.raises(WorkloadError, match="bundle is off"):
        check_bundles(found + 0.1, found)
    with pytest.raises(WorkloadError, match="bundle is off"):
        survey_of(enrolling).decide({"bundles": np.zeros_like(found).tobytes()}, ROOMY)
    with pytest.raises(WorkloadError, match="answers no questions"):
        enrolling.check(enrolling.reference_outputs)


def test_the_c_comes_to_pytorchs_adaptors_and_nothing_else_changes(prepared: Prepared, tmp_path: Path) -> None:
    plan = plan_of(prepared)
    losses, variables = run_job(prepared, plan.job, tmp_path)
    assert set(variables) == {"down.weight", "down.bias", "up.weight"}
    scores = {one.metric: one for one in plan.check(losses, variables)}
    assert scores["update_error"].value < 1e-4
    assert scores["bundle_error"].value < 1e-3
    with pytest.raises(WorkloadError, match="off PyTorch's"):
        plan.check(losses, {name: bytes(len(value)) for name, value in variables.items()})
    answers = {one.metric: one for one in prepared.check(prepared.reference_outputs)}
    assert {"accuracy", "accuracy.source", "routing", "auroc"} <= set(answers)
    assert answers["routing"].value == answers["routing"].reference > 0.5


def test_an_adaptor_is_cheap_in_memory_and_backward(prepared: Prepared) -> None:
    full = get("ear").prepare(cache_dir(), f"{SMALL},update=full")
    assert full.survey is None
    ours, theirs = ({one.metric: one.value for one in arm.figures} for arm in (prepared, full))
    assert theirs["memory.domain"] == 4 * 25466
    for metric, least in (("memory.domain", 8), ("memory.m4", 2), ("macs.backward", 20)):
        assert theirs[metric] > least * ours[metric]
    assert {one.metric for one in full.check(full.reference_outputs)} >= {"accuracy.source"}


def test_domains_like_the_source_leave_nothing_to_train(enrolled: Mapping[str, bytes]) -> None:
    arm = get("ear").prepare(cache_dir(), f"{SMALL},alike=-1")
    with pytest.raises(ConfigError, match="no domain is out of distribution"):
        survey_of(arm).decide(enrolled, ROOMY)


def test_scores_of_domains_are_scikit_learns() -> None:
    generator = np.random.default_rng(5)
    outputs = generator.standard_normal((60, 12)).astype(np.float32)
    domains, answers = np.repeat([0, 1], 30), generator.integers(0, 10, 60)
    found = {one.metric: one.value for one in domain_scores(outputs.view(np.int8), answers, domains)}
    assert found["auroc"] == pytest.approx(roc_auc_score(domains == 0, outputs[:, 10]))
    assert found["routing"] == np.mean(outputs[:, 10:].argmax(1) == domains)
    assert found["accuracy.source"] == np.mean(outputs[:30, :10].argmax(1) == answers[:30])
    plain = domain_scores(np.ascontiguousarray(outputs[:, :10]).view(np.int8), answers, domains)
    assert [one.metric for one in plain] == ["accuracy.source"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("network=mcunet", "of size=paper"),
        ("size=paper,network=digits-mb", "mcunet, mobilenet-v2, proxylessnas"),
        ("update=all", "ear, shared, full"),
        ("shots=1", "2 to 200"),
        ("alike=2", "-1 to 1"),
        ("shot=4", "did you mean 'shots'"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert told in str(refused.value)
