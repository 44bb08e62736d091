"""Claims of papers: figures and intervals against closed forms, the comparison of arms, the store and the reports."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.store_runs import make_run
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from lab.comparison import Sizes, baselines_of, compare, joined
from lab.errors import DoesNotFit, NoPyTorch, WorkloadError
from lab.measured import Measurement
from lab.workloads.base import Claim, DeviceClass, Prepared, Score
from measurements.claims import ClaimResult, in_form
from measurements.effects import Value, effect, share
from measurements.report.markdown import render_markdown
from measurements.report.page import render
from measurements.statistics import make_record
from measurements.store import Store

# ---- figures and intervals ----------------------------------------------------------------------------------------


@given(trials=st.integers(1, 500), right=st.integers(0, 500))
def test_the_interval_of_a_share_is_wilsons(trials: int, right: int) -> None:
    right = min(right, trials)
    ours = share(right / trials, trials)
    theirs = binomtest(right, trials).proportion_ci(method="wilson")
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe 1998, table II, example (a), method 10: 56/70 minus 48/80.
    found = effect("difference", [share(56 / 70, 70)], [share(48 / 80, 80)])
    assert found is not None
    assert [round(one, 4) for one in (found.value, found.low, found.high)] == [0.2, 0.0524, 0.3339]


@pytest.mark.parametrize(("value", "trials"), [(0.5, 0), (1.5, 10), (-0.1, 10), (math.nan, 3)])
def test_no_share_is_refused(value: float, trials: int) -> None:
    with pytest.raises(WorkloadError, match="is no share of"):
        share(value, trials)


def exact(value: float) -> Value:
    return Value(value, value, value)


@given(st.floats(1e-6, 1e12), st.floats(1e-6, 1e12))
def test_of_figures_without_spread_the_ratio_is_theirs_and_has_none(method: float, base: float) -> None:
    assert effect("reduction", [exact(method)], [exact(base)]) == exact(base / method)
    assert effect("factor", [exact(method)], [exact(base)]) == exact(method / base)
    assert effect("difference", [exact(method)], [exact(base)]) == exact(method - base)


def test_the_interval_of_a_ratio_holds_what_a_simulation_shows() -> None:
    """Two medians with known normal spread: the interval is that of the simulated quotients."""
    rng = np.random.default_rng(3)
    quotients = rng.normal(40, 1, 200_000) / rng.normal(10, 0.5, 200_000)
    found = effect("reduction", [Value(10, 10 - 0.98, 10 + 0.98)], [Value(40, 40 - 1.96, 40 + 1.96)])
    assert found is not None
    low, high = np.percentile(quotients, (2.5, 97.5))
    assert found.low == pytest.approx(low, rel=0.01)
    assert found.high == pytest.approx(high, rel=0.01)


def test_rounds_are_compared_pair_by_pair_so_that_drift_is_no_spread() -> None:
    method, base = [exact(one) for one in (1.0, 1.5, 2.0)], [exact(one) for one in (3.0, 4.5, 6.0)]
    assert effect("reduction", method, base) == exact(3.0)


def test_zero_has_no_ratio_but_a_difference() -> None:
    assert effect("reduction", [exact(0.0)], [exact(1.0)]) is None
    assert effect("factor", [exact(1.0)], [exact(0.0)]) is None
    assert effect("difference", [exact(0.0)], [exact(1.0)]) == exact(-1.0)
    wide = effect("factor", [share(0.5, 4)], [Value(0.1, 0.0, 0.4)])
    assert wide is not None
    assert wide.high == math.inf


def test_arms_measured_unequally_often_are_refused() -> None:
    for method, base in (([exact(1.0)], []), ([], []), ([exact(1.0)] * 2, [exact(1.0)])):
        with pytest.raises(WorkloadError, match="was measured"):
            effect("factor", method, base)


# ---- arms ---------------------------------------------------------------------------------------------------------

RAM = Claim("S214", "trains in less", "table 1", "peak_ram", "update=full", "reduction", 21.0, "smaller", at_least=2.0)
POINTS = Claim(
    "S214", "is as accurate", "figure 5", "accuracy", "update=last", "difference", None, "easier", at_least=-0.05
)
INSIDE = Claim(
    "S214", "fits", "section 3", "peak_ram", "", "factor", 1.0, "other planner", against=("inference_ram", "run")
)


@dataclass
class Method:
    """A workload that is only asked what it compares."""

    claims: tuple[Claim, ...] = (RAM, POINTS, INSIDE)
    id: str = "method"
    title: str = "A method"
    family: str = "training"
    systems: tuple[str, ...] = ("S214",)
    classes: tuple[DeviceClass, ...] = ("mcu",)
    baselines: tuple[str, ...] = ("update=full", "update=last")
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        raise NotImplementedError


@dataclass
class Bench:
    """Measures a variant: peak RAM and accuracy as told, stored like a real one."""

    store: Store
    ram: dict[str, Sequence[float]] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    unacceptable: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)

    def __call__(self, variant: str) -> Measurement:
        self.asked.append(variant)
        name = variant.rpartition("update=")[2]
        if name in self.refused:
            raise DoesNotFit("the arena needs 300 bytes, the RAM is 200 bytes\n  table", hint="smaller")
        if name in self.unacceptable:
            raise WorkloadError(f"the losses of {name} differ from PyTorch's by 0.03")
        turn = sum(one == variant for one in self.asked) - 1
        ram = self.ram.get(name, (100.0,))
        records = (
            make_record("run", "peak_ram", "bytes", "emulated", [ram[turn % len(ram)]]),
            make_record("run", "inference_ram", "bytes", "emulated", [80.0]),
            make_record("run", "accuracy", "1", "emulated", [0.8]),
        )
        run = make_run(len(self.asked), records=records)
        run = replace(run, provenance=replace(run.provenance, variant=variant, dataset="noise"))
        self.store.save(run)
        return Measurement(run, np.zeros((0, 1), np.int8), (Score("accuracy", 0.8, 0.8, trials=200),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def test_the_methods_run_holds_what_came_of_each_claim_and_reads_back_equal(store: Store) -> None:
    bench = Bench(store, {"full": (400.0,)})
    found = compare(Method(), "", bench, store)
    found.check()
    assert bench.asked == ["", "update=full", "update=last"]
    ram, points, inside = found.claims
    assert (ram.ours, ram.low, ram.high, ram.method, ram.base, ram.unit) == (4.0, 4.0, 4.0, 100.0, 400.0, "bytes")
    assert (ram.verdict, points.verdict, inside.verdict) == ("met", "met", "told")
    assert points.ours == 0.0
    assert points.low is not None
    assert -0.1 < points.low < -0.07, "200 samples on each side"
    assert inside.ours == pytest.approx(1.25)
    kept = store.run(found.method.run.run_id)
    assert kept.detail.claims == found.claims
    assert kept.status == "passed"
    assert not store.run(found.baselines["update=full"].run.run_id).detail.claims


def test_a_broken_bound_fails_the_methods_run_and_says_by_how_much(store: Store) -> None:
    found = compare(Method(), "", Bench(store, {"full": (150.0,)}), store)
    with pytest.raises(WorkloadError, match=r"S214, table 1: peak_ram .* is 1.5×; it must be at least 2× .*paper: 21×"):
        found.check()
    assert store.run(found.method.run.run_id).status == "failed"
    assert store.run(found.baselines["update=full"].run.run_id).status == "passed"


@pytest.mark.parametrize(("ours", "verdict"), [(0.94 - 0.97, "met"), (0.939 - 0.97, "broken")])
def test_a_difference_at_its_bound_keeps_it_whatever_its_last_bits(ours: float, verdict: str) -> None:
    assert 0.94 - 0.97 < -0.03, "as floats have it"
    claim = ClaimResult(
        "S009", "text", "table 1", "accuracy", "run", "difference", None, "why", -0.03, None, "store=int8",
        enforced=True, ours=ours, low=ours, high=ours,
    )  # fmt: skip
    assert claim.verdict == verdict


def test_a_bound_counts_for_the_default_variant_alone(store: Store) -> None:
    bench = Bench(store, {"full": (150.0,)})
    found = compare(Method(), "image=64", bench, store)
    found.check()
    assert bench.asked == ["image=64", "image=64,update=full", "image=64,update=last"]
    assert found.claims[0].verdict == "told"
    assert found.claims[0].ours == 1.5


@pytest.mark.parametrize(("on", "verdict"), [("linux", "told"), ("mcu", "broken")])
def test_a_bound_counts_on_devices_of_the_classes_it_was_stated_for(
    store: Store, on: DeviceClass, verdict: str
) -> None:
    method = Method(claims=(replace(RAM, bound_on=("mcu",)),))
    found = compare(method, "", Bench(store, {"full": (150.0,)}), store, on=on)
    assert [one.verdict for one in found.claims] == [verdict]
    assert (found.method.run.status == "passed") == (on == "linux")


@pytest.mark.parametrize(("data", "verdict"), [("characters", "told"), ("noise", "broken")])
def test_a_bound_counts_on_the_data_it_was_stated_for(store: Store, data: str, verdict: str) -> None:
    method = Method(claims=(replace(RAM, bound_data=data),))
    found = compare(method, "", Bench(store, {"full": (150.0,)}), store)
    assert found.method.run.provenance.dataset == "noise"
    assert [one.verdict for one in found.claims] == [verdict]


def test_an_upper_bound_can_break_too(store: Store) -> None:
    method = Method(claims=(replace(RAM, at_least=None, at_most=1.2),))
    assert compare(method, "", Bench(store, {"full": (150.0,)}), store).claims[0].verdict == "broken"


def test_what_the_variant_sets_itself_is_no_baselines_to_set(store: Store) -> None:
    bench = Bench(store)
    found = compare(Method(), "update=full", bench, store)
    assert bench.asked == ["update=full"]
    assert [one.baseline for one in found.claims] == [""]
    assert baselines_of(Method(), "pytorch,image=16") == Method.baselines
    assert joined("pytorch", "update=last") == "pytorch,update=last"


def test_without_baselines_only_claims_of_the_own_run_are_judged(store: Store) -> None:
    bench = Bench(store)
    assert len(compare(Method(), "", bench, store, baselines=False).claims) == 1
    assert bench.asked == [""]


def test_a_baseline_that_does_not_fit_is_told_and_no_failure(store: Store) -> None:
    found = compare(Method(), "", Bench(store, refused=("full",)), store)
    found.check()
    assert found.claims[0].verdict == "not measured"
    assert found.claims[0].found == "not measured: the arena needs 300 bytes, the RAM is 200 bytes"
    assert list(found.baselines) == ["update=last"]


def test_a_baseline_that_is_not_acceptable_fails_after_all_others_were_compared(store: Store) -> None:
    bench = Bench(store, unacceptable=("full",))
    with pytest.raises(WorkloadError, match="losses of full differ from PyTorch's by"):
        compare(Method(), "", bench, store)
    assert bench.asked == ["", "update=full", "update=last"]
    (kept,) = (run for run in store.runs() if run.detail.claims)
    assert [one.verdict for one in kept.detail.claims] == ["not measured", "met", "told"]
    assert kept.detail.claims[0].missing == "the losses of full differ from PyTorch's by 0.03"


def test_a_method_that_is_not_acceptable_runs_beside_nothing(store: Store) -> None:
    bench = Bench(store, unacceptable=("",))
    with pytest.raises(WorkloadError, match="differ from PyTorch's"):
        compare(Method(), "", bench, store)
    assert bench.asked == [""]


def test_a_baseline_that_needs_pytorch_where_there_is_none_is_told_and_no_failure(store: Store) -> None:
    bench = Bench(store)

    def arm(variant: str) -> Measurement:
        if variant.startswith("pytorch"):
            raise NoPyTorch("board has no Python that runs PyTorch")
        return bench(variant)

    method = Method((replace(RAM, baseline="pytorch"),), baselines=("pytorch", "update=full"))
    found = compare(method, "", arm, store)
    found.check()
    assert found.claims[0].found == "not measured: board has no Python that runs PyTorch"
    assert list(found.baselines) == ["update=full"]


def test_pytorch_comes_first_in_a_baselines_variant_and_is_no_baseline_of_itself() -> None:
    assert joined("", "pytorch,update=full") == "pytorch,update=full"
    assert joined("image=32", "pytorch,update=full") == "pytorch,image=32,update=full"
    assert joined("pytorch,image=32", "update=full") == "pytorch,image=32,update=full"
    assert baselines_of(Method(baselines=("pytorch", "update=full")), "pytorch,image=16") == ("update=full",)


def test_a_method_that_does_not_fit_is_an_error(store: Store) -> None:
    with pytest.raises(DoesNotFit, match="needs 300 bytes"):
        compare(Method(), "", Bench(store, refused=("",)), store)


def test_a_figure_that_was_not_measured_is_told(store: Store) -> None:
    method = Method(claims=(replace(RAM, metric="energy", region="train.step"),))
    (found,) = compare(method, "", Bench(store), store).claims
    assert found.found == "not measured: no energy of 'train.step' was measured here"


def test_a_figure_of_zero_has_no_ratio(store: Store) -> None:
    (found,) = compare(Method(claims=(RAM,)), "", Bench(store, {"full": (0.0,)}), store).claims
    assert (found.verdict, found.base) == ("not measured", 0.0)


def test_rounds_are_interleaved_in_both_orders(store: Store) -> None:
    bench = Bench(store, {"": (100.0, 110.0, 120.0), "full": (300.0, 330.0, 360.0)})
    found = compare(Method(), "", bench, store, rounds=3)
    assert bench.asked == ["", "update=full", "update=last", "update=last", "update=full", "", *bench.asked[:3]]
    assert (found.claims[0].ours, found.claims[0].rounds) == (3.0, 3)


# ---- reports ------------------------------------------------------------------------------------------------------


@pytest.fixture
def claimed(store: Store) -> Callable[[float], tuple[ClaimResult, ...]]:
    return lambda full: compare(Method(), "", Bench(store, {"full": (full,)}), store).claims


def test_reports_show_paper_ours_and_why(store: Store) -> None:
    run = compare(Method(), "", Bench(store, {"full": (400.0,)}), store).method.run
    page, told = render([run], {}), render_markdown([run])
    for text in ("trains in less", "table 1", "21×", "4×", "at least 2×", "smaller", "400"):
        assert text in page
    assert 'href="#claims"' in page
    for text in ("trains in less", "21×", "4×", "✅ met", "smaller"):
        assert text in told
    assert "claims" not in render([make_run(1)], {}).replace("table.claims", "")


def test_hostile_words_of_a_claim_are_no_markup(store: Store) -> None:
    method = Method(claims=(replace(RAM, why="<script>alert(1)</script> | @nobody"),))
    run = compare(method, "", Bench(store, {"full": (400.0,)}), store).method.run
    assert "<script>alert(1)" not in render([run], {})
    assert "| @nobody" not in render_markdown([run])


def test_words_of_figures() -> None:
    assert [in_form(*one) for one in ((2.1, "factor"), (-0.031, "difference"), (math.inf, "factor"))] == [
        "2.1×", "-0.031", "inf",
    ]  # fmt: skip
    assert Sizes().rounds == 1
