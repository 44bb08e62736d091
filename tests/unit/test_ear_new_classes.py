"""ear with classes that the source lacks: who has them, which outputs are open when, and the C against PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import FloatArray, Prepared, Room
from lab.workloads.continual import ear_classes, ear_domains
from lab.workloads.continual import ear_host as host
from lab.workloads.continual.ear import domain_scores
from lab.workloads.data import digits
from lab.workloads.training.turned_digits import Data

DOMAINS = ("source", "one", "two")


def data() -> Data:
    """Sixty images of five classes, every fifth of them held out."""
    labels = torch.arange(60) % 5
    held = np.arange(60) // 5 % 5 == 0
    images = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    return Data(images, images, labels, np.flatnonzero(~held), np.flatnonzero(held))


def test_each_new_class_comes_with_one_later_domain_alone() -> None:
    dealt = ear_classes.dealt(dict.fromkeys(DOMAINS, data()), 5, 3, 4, 4)
    classes = {"source": {0, 1}, "one": {0, 1, 2, 4}, "two": {0, 1, 3}}
    for name, one in dealt.items():
        for part in (one.training, one.held_out):
            assert set(one.labels[part].tolist()) == classes[name]
    assert ear_classes.owners(3, 3) == (1, 2, 1)
    with pytest.raises(ConfigError, match="new=4 of 5 classes"):
        ear_classes.dealt(dict.fromkeys(DOMAINS, data()), 5, 4, 1, 1)
    with pytest.raises(ConfigError, match="'source' has 18 images to learn from and 6 to be asked; 19 and 4"):
        ear_classes.dealt(dict.fromkeys(DOMAINS, data()), 5, 3, 19, 4)


class Given(nn.Module):
    """Features that are the input, and the hypervector of a domain."""

    def __init__(self, bundle: torch.Tensor) -> None:
        super().__init__()
        self.bundle = bundle

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, self.bundle.expand(len(x), -1)


@pytest.mark.parametrize(("domain", "opened"), [(0, []), (1, [0, 2]), (2, [1]), (3, [1])])
def test_a_new_class_is_offered_where_the_adaptor_of_its_domain_is_open(domain: int, opened: list[int]) -> None:
    """The last domain was found to be like the one before: it shares its adaptor, and its classes."""
    generator = np.random.default_rng(2)
    bundles = torch.from_numpy(np.where(generator.random((4, 64)) < 0.5, 1.0, -1.0).astype(np.float32))
    hypervectors = Given(bundles[domain])
    network = host.Routed(hypervectors, nn.Linear(6, 2), bundles, (-1, 0, 1, 1), (4, 4), (1, 2, 1))  # type: ignore[arg-type]
    assert network.head is not None
    nn.init.normal_(network.head.weight, generator=torch.Generator().manual_seed(3))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(4))
    outputs = network(x)
    assert outputs.shape == (5, 2 + 3 + 4)
    torch.testing.assert_close(outputs[:, :2], network.classifier(x))
    for place in range(3):
        expected = network.head(x)[:, place] - (0.0 if place in opened else host.ASIDE)
        torch.testing.assert_close(outputs[:, 2 + place], expected, atol=1e-3, rtol=1e-3)
    functional.cross_entropy(outputs, torch.zeros(5, dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    gradient = network.head.weight.grad
    assert gradient is not None
    assert [place for place in range(3) if bool((gradient[place].abs() > 1e-9).any())] == opened


def test_a_network_gets_outputs_and_keeps_its_own() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    wide = ear_classes.widened(network, 2)
    x = data().upright[:4]
    torch.testing.assert_close(wide(x), torch.cat([network(x), torch.zeros(4, 2)], 1))


def run_job(prepared: Prepared, job: Job, folder: Path) -> tuple[FloatArray, Mapping[str, bytes]]:
    trained = HostTraining(prepared.model, folder)
    samples = np.frombuffer(job.blob, np.float32).reshape(job.count, -1)
    targets, rate = np.frombuffer(job.blobs["targets"], np.int32), float(job.parameters["lr"])
    losses = [trained.step(samples[n], targets[n : n + 1], rate) for n in range(job.count)]
    return np.array(losses, np.float32), trained.raw_variables()


@needs_host_compiler
def test_heads_of_new_digits_are_trained_to_pytorchs(tmp_path: Path) -> None:
    """The source knows five digits; the others come with the domains."""
    enrolling = get("ear").prepare(cache_dir(), "new=5,shots=16,epochs=5,evaluated=20,rate=0.1,target=0.1")
    assert enrolling.survey is not None
    bundles = run_job(enrolling, enrolling.survey.jobs[0], tmp_path)[1]
    prepared = enrolling.survey.decide(bundles, Room(1 << 40, 1 << 40))
    assert prepared.training is not None
    losses, variables = run_job(prepared, prepared.training.job, tmp_path)
    assert set(variables) == {"down.weight", "down.bias", "up.weight", "head.weight", "head.bias"}
    assert len(variables["head.bias"]) == 4 * 5
    scores = {one.metric: one for one in prepared.training.check(losses, variables)}
    assert scores["update_error"].value < 1e-4
    with pytest.raises(WorkloadError, match="off PyTorch's"):
        prepared.training.check(losses, {**variables, "head.weight": bytes(len(variables["head.weight"]))})
    answers = {one.metric: one for one in prepared.check(prepared.reference_outputs)}
    assert answers["accuracy.new"].value > 0.2
    assert answers["accuracy.new"].value == answers["accuracy.new"].reference
    assert (answers["accuracy.new"].trials or 0) + (answers["accuracy.old"].trials or 0) == 80
    assert answers["accuracy"].value > answers["accuracy.untrained"].value


def test_the_encoder_has_not_seen_the_new_digits() -> None:
    domains = ear_classes.dealt(dict.fromkeys(DOMAINS, ear_domains.load(16)), digits.CLASSES, 5, 16, 20)
    network = ear_classes.pretrained_on(domains["source"], 5, cache_dir())
    source = domains["source"]
    asked = source.held_out
    with torch.no_grad():
        told = network(source.upright[asked])
    assert told.shape == (len(asked), 5)
    assert set(source.labels[source.training].tolist()) == set(range(5))
    assert float((told.argmax(1) == source.labels[asked]).float().mean()) > 0.95


def test_new_classes_have_an_accuracy_of_their_own() -> None:
    outputs = np.eye(6, dtype=np.float32)[[0, 1, 2, 3, 0, 3]]
    answers, domains = np.array([0, 1, 2, 3, 2, 3]), np.array([0, 0, 1, 1, 1, 1])
    found = {one.metric: one for one in domain_scores(outputs.view(np.int8), answers, domains, 4, 2)}
    assert (found["accuracy.new"].value, found["accuracy.new"].trials) == (0.75, 4)
    assert (found["accuracy.old"].value, found["accuracy.source"].value) == (1.0, 1.0)
