"""The workload ur2m: the rule of its exits, what its references are, and every bound that can break."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from lab.compiler.host import HostModel
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Int8Array, Prepared
from lab.workloads.trained import trained
from lab.workloads.uncertainty import networks
from lab.workloads.uncertainty.answers import macs_of_exits
from lab.workloads.uncertainty.evidence import beta
from lab.workloads.uncertainty.ur2m import KNOWN, Variant, counts, parse

SMALL = "epochs=1,evaluated=20"
PLACE, MARGIN = 2 * KNOWN, 2 * KNOWN + 1


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("ur2m").prepare(cache_dir(), f"{SMALL},threshold=0.9")


@pytest.fixture(scope="module")
def outputs(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Int8Array:
    """What the C yields on this computer."""
    model = HostModel(prepared.model, tmp_path_factory.mktemp("ur2m"))
    samples = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    return np.ascontiguousarray(model.run(samples)).view(np.int8)


def rows(outputs: Int8Array) -> npt.NDArray[np.float32]:
    return outputs.view(np.float32).copy()


def test_an_exit_needs_an_event_that_is_likely_and_not_uncertain() -> None:
    torch.manual_seed(0)
    parts, heads = networks.stages(), [networks.head(2 * KNOWN) for _ in range(networks.EXITS)]
    module = networks.EvidenceExits(parts, heads, 0.0).eval()
    x = 2 * torch.rand(64, 1, 16, 16) ** 3
    with torch.no_grad():
        for head in heads:
            next(head.parameters()).mul_(8)
        first = torch.cat(beta(heads[0](parts[0](x))), 1)
        lowest = (2 / (first[:, :KNOWN] + first[:, KNOWN:])).min(1).values
        threshold = module.threshold = float(lowest.quantile(0.3))
        found = module(x).numpy()
        expected, open_rows = np.zeros_like(found), np.ones(len(x), bool)
        for number, (part, head) in enumerate(zip(parts, heads, strict=True)):
            x = part(x)
            alpha, against = (one.numpy() for one in beta(head(x)))
            probability, uncertainty = alpha / (alpha + against), 2 / (alpha + against)
            sure = ((uncertainty <= threshold) & (probability >= 0.5)).any(1)
            answer = np.concatenate([probability, uncertainty, np.full((len(x), 1), number)], 1)
            expected[open_rows, :MARGIN] = answer[open_rows]
            open_rows &= ~sure
    assert len(set(expected[:, PLACE])) > 1
    np.testing.assert_allclose(found[:, :MARGIN], expected[:, :MARGIN], atol=1e-6)


def test_draws_of_dropout_side_by_side_are_dropout_drawn_one_by_one() -> None:
    classifier, x = nn.Linear(6, 3), torch.randn(5, 6)
    made = networks.dropped(classifier, 0.4, 4, torch.Generator().manual_seed(1))
    masks = (torch.rand((4, 1, 6), generator=torch.Generator().manual_seed(1)) >= 0.4) / 0.6
    assert (masks == 0).any()
    each = torch.stack([torch.softmax(classifier(x * mask), 1) for mask in masks]).mean(0)
    found = networks.Averaged([made], 3)(x)
    torch.testing.assert_close(found[:, :3], each)
    torch.testing.assert_close(found[:, 3], -(each * each.log()).sum(1))


def test_the_c_answers_as_the_programs_steps_in_pytorch(prepared: Prepared, outputs: Int8Array) -> None:
    scores = {one.metric: one for one in prepared.check(outputs)}
    assert scores["output_error"].value < 1e-5
    assert scores["same_exit"].value == 1
    assert scores["accuracy"].trials == sum(counts(20)[:2])
    assert sum(scores[f"exit_share.{n}"].value for n in (1, 2, 3)) == pytest.approx(1)
    assert set(rows(outputs)[:, PLACE]) > {0}, "not every image leaves at once"
    assert "accuracy.shifted" in scores
    assert 0 <= scores["auroc.unknown"].value <= 1


def test_every_bound_can_break(prepared: Prepared, outputs: Int8Array) -> None:
    elsewhere, other, nan, wrong = (rows(outputs) for _ in range(4))
    elsewhere[:3, PLACE] = (elsewhere[:3, PLACE] + 1) % 3
    other[5, 0] += 0.01
    nan[5, 0] = np.nan
    wrong[:, :KNOWN] = wrong[:, :KNOWN][:, ::-1]
    for values, told in ((elsewhere, "left at the reference's exit with 85.0%"), (other, "differ from the reference's"),
                         (nan, "differ from the reference's by inf"), (wrong, "differ from the reference's"),
                         (elsewhere[:-1], "is expected")):  # fmt: skip
        with pytest.raises(WorkloadError, match=told):
            prepared.check(np.ascontiguousarray(values).view(np.int8))


def test_figures_say_what_each_exit_costs(prepared: Prepared) -> None:
    figures = {one.metric: one.value for one in prepared.figures}
    each = macs_of_exits(prepared.model)
    assert each == tuple(figures[f"macs.exit.{n}"] for n in (1, 2, 3))
    assert each[0] < each[1] < each[2] == prepared.model.macs
    assert each[0] <= figures["macs_per_sample"] <= each[2]
    assert prepared.stream is not None
    assert prepared.stream.metered.count == prepared.stream.samples == prepared.job.count == 20


def test_preparing_twice_is_the_same_to_the_bit(prepared: Prepared, tmp_path: Path) -> None:
    again = get("ur2m").prepare(tmp_path, f"{SMALL},threshold=0.9")
    assert again.model.digest == prepared.model.digest
    assert again.job.blob == prepared.job.blob
    np.testing.assert_array_equal(again.reference_outputs, prepared.reference_outputs)


def test_baselines_have_one_end(tmp_path: Path) -> None:
    made = get("ur2m").prepare(cache_dir(), f"{SMALL},precision=float32,method=dropout")
    samples = np.frombuffer(made.job.blob, np.float32).reshape(made.job.count, -1)
    found = np.ascontiguousarray(HostModel(made.model, tmp_path).run(samples))
    scores = {one.metric: one.value for one in made.check(found.view(np.int8))}
    assert scores["agreement"] == 1
    assert "exit_share.1" not in scores
    assert found.shape == (20, KNOWN + 1)
    np.testing.assert_allclose(found[:, :KNOWN].sum(1), 1, rtol=1e-5)


def test_what_is_trained_is_trained_once(tmp_path: Path) -> None:
    calls = []

    def train(network: nn.Linear) -> None:
        calls.append(network)
        nn.init.constant_(network.weight, 7.0)

    for parts in ({"seed": "1"}, {"seed": "1"}, {"seed": "2"}):
        network = nn.Linear(2, 2)
        made = trained(network, tmp_path, "linear", parts, [], partial(train, network))
        assert made is network
        assert not made.training
        assert bool((made.weight == 7).all())
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=large", "one of ci, paper"),
        ("width=64", "has no option 'width'"),
        ("method=tent", "ur2m, softmax, dropout, ensemble"),
        ("threshold=1.5", "which is 1 without any evidence"),
        ("threshold=nan", "no finite number"),
        ("members=1", "one member alone is method=softmax"),
        ("evaluated=5", "two images or more"),
        ("treshold=0.5", "did you mean 'threshold'"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert told in str(refused.value)
