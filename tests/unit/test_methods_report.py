"""The comparison of methods: a row for each on every device, the front of each device, and failures that stay alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pytest
from helpers.nights import Made, run_of
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.bench import Bench
from lab.commands.methods import chosen_methods
from lab.commands.running import run_everywhere
from lab.commands.side_by_side import Workers
from lab.comparison import Comparison, Sizes
from lab.errors import ConfigError, InfrastructureError, TransportError, WorkloadError
from lab.measured import Measurement
from lab.paths import default_config
from lab.workloads import all_workloads
from lab.workloads.base import Claim, DeviceClass, Prepared
from measurements.claims import ClaimResult
from measurements.record import Rejection, Run, RunDetail
from measurements.report import render
from measurements.report.markdown import render_markdown
from measurements.report.method_table import METHOD_COLUMNS, Unmeasured, method_rows
from measurements.report.pareto import pareto_views
from measurements.statistics import make_record
from measurements.store import Store

if TYPE_CHECKING:
    from lab.inventory import Device

TOLD = ClaimResult(
    "S052", "text", "table 1", "peak_ram", "run", "reduction", 6.5, "why", None, None, "update=full", enforced=True
)


def trained(
    name: str,
    *,
    device: str = "m4f",
    variant: str = "",
    accuracy: float = 0.5,
    energy_j: float | None = 1.0,
    reached_s: float | None = 3.0,
    ram_bytes: int = 1000,
    task: str = "Turned digits.",
    target: float = 0.4,
    claims: bool = True,
) -> Run:
    """A run of a method that was trained on a device."""
    run = run_of(Made(device, workload=name, accuracy=accuracy, ram_bytes=ram_bytes), 1)
    figures = [make_record("run", "training_time", "s", "emulated", [9.0])]
    if energy_j is not None:
        figures.append(make_record("run", "training_energy", "J", "modelled", [energy_j]))
    if reached_s is not None:
        figures.append(make_record("run", "time_to_accuracy", "s", "emulated", [reached_s]))
    detail = RunDetail(task=task, target_accuracy=target, claims=(TOLD,) if claims and not variant else ())
    provenance = replace(run.provenance, variant=variant, meter="" if energy_j is None else run.provenance.meter)
    return replace(
        run, run_id=f"{run.run_id}-{variant}", records=(*run.records, *figures), detail=detail, provenance=provenance
    )


def test_there_is_a_row_for_each_method_on_each_device_and_none_for_baselines() -> None:
    runs = [
        trained(name, device=device, variant=variant)
        for device in ("m4f", "m7") for name in ("tinytl", "rep-net") for variant in ("", "update=full")
    ]  # fmt: skip
    rows = method_rows(runs, [Unmeasured("m4f", "pockengine", "", "runs on devices of class linux", is_failure=False)])
    assert [(row.name, row.device) for row in rows] == [
        ("pockengine", "m4f"), ("rep-net", "m4f"), ("rep-net", "m7"), ("tinytl", "m4f"), ("tinytl", "m7"),
    ]  # fmt: skip
    assert rows[3].figures == ("50.00\u00a0%", "1\u202f000\u00a0B", "1.000\u00a0J", "3.000\u00a0s to 40%")
    assert rows[3].anchor == "run-1"
    assert (rows[0].task, rows[0].status_word, rows[0].anchor) == ("runs on devices of class linux", "left out", "")


def test_the_first_run_of_a_method_that_was_measured_alone_has_its_row_without_claims() -> None:
    assert [row.name for row in method_rows([trained("tinytl", claims=False)])] == ["tinytl"]
    assert method_rows([run_of(Made("m4f"), 1), run_of(Made("m7"), 1)]) == (), "what only infers is no method"


def test_what_is_missing_has_its_reason_in_place_of_a_figure() -> None:
    never = trained("tinytl", reached_s=None, energy_j=None, device="pi")
    endless = trained("lifelearner", reached_s=None, target=0.0)
    lacking = replace(endless, records=tuple(one for one in endless.records if one.metric != "peak_ram"))
    refused = replace(never.detail, rejections=(Rejection("lost-samples", "4 % lost"),))
    rows = {row.name: row for row in method_rows([never, lacking, replace(trained("rep-net"), detail=refused)])}
    assert rows["tinytl"].figures[2:] == ("no meter", "never reaches 40%; 9.000\u00a0s in all")
    assert rows["lifelearner"].figures[1] == "not measured"
    assert rows["lifelearner"].figures[3] == "9.000\u00a0s in all; no accuracy is asked for"
    assert rows["rep-net"].figures[2] == "rejected: lost-samples"


def test_of_a_stream_energy_and_time_are_those_of_a_sample() -> None:
    run = run_of(Made("m4f", workload="od-tta"), 1)
    told = [make_record("run", "latency_per_sample", "s", "emulated", [0.01]),
            make_record("run", "energy_per_sample", "J", "modelled", [2e-5])]  # fmt: skip
    (row,) = method_rows([replace(run, records=(*run.records, *told))])
    assert row.figures[2:] == ("20.00\u00a0µJ a sample", "10.00\u00a0ms a sample")


def test_the_front_is_that_of_the_device_and_of_what_is_asked() -> None:
    """A better run on another device, of another task or in another time says nothing of a method."""
    runs = [
        trained("tinytl", accuracy=0.5),
        trained("tinytl", variant="update=last", accuracy=0.6),
        trained("tinytl", device="m7", accuracy=0.5),
        trained("baffle", accuracy=0.9, task="8x8 pixels as they are."),
        trained("rep-net", accuracy=0.9, target=0.3),
        trained("sparse-update", accuracy=0.4, energy_j=0.5),
    ]
    said = {(row.name, row.device): (row.front, row.on_front) for row in method_rows(runs)}
    assert said == {
        ("tinytl", "m4f"): ("no: tinytl (update=last)", False),
        ("tinytl", "m7"): ("alone", True),
        ("baffle", "m4f"): ("alone", True),
        ("rep-net", "m4f"): ("alone", True),
        ("sparse-update", "m4f"): ("yes, of 3", True),
    }
    first, *_ = pareto_views(runs)
    assert first.title.endswith(", spoken digits, Turned digits, time to 40%")
    assert [row.name for row in first.rows] == [
        "m4f · tinytl", "m4f · tinytl (update=last)", "m7 · tinytl", "m4f · sparse-update",
    ]  # fmt: skip


def test_a_run_without_a_cost_that_others_have_is_not_compared() -> None:
    rows = method_rows([trained("tinytl"), trained("rep-net"), trained("tpsgd", energy_j=None)])
    assert [row.front for row in rows] == ["yes, of 2", "yes, of 2", "not compared: it lacks a figure"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=8))
def test_who_is_named_beats_and_is_beaten_by_nobody(costs: list[tuple[int, int, int]]) -> None:
    runs = [
        trained(f"m{number}", accuracy=rank / 10, energy_j=float(energy), ram_bytes=ram)
        for number, (rank, energy, ram) in enumerate(costs)
    ]

    def beats(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]

    for row, own in zip(method_rows(runs), costs, strict=True):
        assert row.on_front == (not any(beats(other, own) for other in costs))
        if not row.on_front:
            named = costs[int(row.front.removeprefix("no: ").partition(";")[0].partition(" and ")[0][1:])]
            assert beats(named, own)
            assert not any(beats(other, named) for other in costs)


def test_a_run_that_failed_is_told_once_at_the_top() -> None:
    failed = replace(trained("tinytl"), status="failed", error="nothing was learned")
    page = render([failed], {}, unmeasured=[Unmeasured("m4f", "tinytl", "", "nothing was learned")])
    assert "1 failed" in page
    assert "stopped" not in page.partition("</header>")[0]


def test_who_stopped_beside_the_baselines_says_so_once() -> None:
    why = Unmeasured("m4f", "tinytl", "", "the losses differ")
    rows = method_rows([trained("tinytl"), replace(trained("rep-net"), status="failed")],
                       [why, replace(why, workload="rep-net"), replace(why, workload="tpsgd")])  # fmt: skip
    assert [(row.name, row.status, "the losses differ" in row.task) for row in rows] == [
        ("rep-net", "failed", False), ("tinytl", "passed", True), ("tpsgd", "failed", True),
    ]  # fmt: skip
    assert rows[1].task == "Turned digits. Stopped beside its baselines: the losses differ"


def test_page_and_markdown_hold_every_row() -> None:
    runs = [trained("tinytl"), trained("tinytl", variant="update=last", accuracy=0.6), trained("rep-net")]
    missing = [Unmeasured("m7", "pockengine", "", "runs on <linux> | host", is_failure=False)]
    page, told = render(runs, {}, unmeasured=missing), render_markdown(runs, unmeasured=missing)
    assert page.index('id="methods"') < page.index('id="pareto"')
    assert "runs on &lt;linux&gt; | host" in page
    table = told.split("### Methods on devices")[1].split("###")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [head.strip() for head in lines[0].strip("|").split("|")][2:6] == list(METHOD_COLUMNS)
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| pockengine", "| rep-net", "| tinytl"]
    assert "runs on \\<linux\\> \\| host" in lines[2]
    assert "no: tinytl (update=last)" in lines[4]
    assert 'id="methods"' not in render(runs[:1], {}), "one method on one device is no comparison"


def test_families_are_taken_together_and_each_has_to_be_there() -> None:
    both = chosen_methods(all_workloads(), "training,continual", "")
    apart = [*chosen_methods(all_workloads(), "training", ""), *chosen_methods(all_workloads(), "continual", "")]
    assert {one.id for one in both} == {one.id for one in apart}
    assert {"tinytl", "pockengine", "lifelearner", "metacl-bench"} <= {one.id for one in both}
    assert [one.id for one in chosen_methods(all_workloads(), "training,continual", "sparcl, tinytl")] == [
        "sparcl", "tinytl",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no method of a family 'trainin' has claims"):
        chosen_methods(all_workloads(), "training,trainin", "")
    with pytest.raises(ConfigError, match="no method of a family '' has claims"):
        chosen_methods(all_workloads(), " ,", "")


# ---- the command: a failure stays alone ---------------------------------------------------------------------------


@dataclass
class Named:
    """A workload that is not prepared where nothing is run."""

    id: str
    title: str = ""
    family: str = "training"
    systems: tuple[str, ...] = ()
    classes: tuple[DeviceClass, ...] = ("mcu",)
    baselines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        raise NotImplementedError


Result = Run | Exception


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], Result]:
    """What running a method on a device comes to, in place of doing so: a run that is stored, or an error."""
    found: dict[tuple[str, str], Result] = {}

    def run_on(
        entry: Device, device: None, method: Named, variant: str, store: Store, session: str, *_: object,
        told: Callable[[Run], None], **__: object,
    ) -> Comparison:  # fmt: skip
        outcome = found[entry.name, method.id]
        if isinstance(outcome, Exception):
            raise outcome
        run = replace(outcome, session_id=session)
        store.save(run)
        told(run)
        return Comparison(Measurement(run, np.zeros((0, 1), np.int8), ()), {}, ())

    monkeypatch.setattr("lab.comparison.run_on", run_on)
    monkeypatch.setattr("lab.doctor.availability", lambda entry: "no QEMU" if entry.name == "m55" else "")
    for place in ("lab.devices.connect.connected", "lab.ending.rested", "lab.lease.held"):
        monkeypatch.setattr(place, lambda *_: nullcontext())
    return found


def run_methods(
    devices: str, ids: Sequence[str], left_out: Sequence[Unmeasured] = (), resumed: str = "", baseline: str = ""
) -> int:
    methods = [Named(name, baselines=(baseline,) if baseline else ()) for name in ids]
    cells = [(entry, one) for entry in Bench.load(default_config()).select(devices) for one in methods]
    alone = Workers(1, default_config())
    return run_everywhere(cells, "", Sizes(), baselines=True, left_out=left_out, resumed=resumed, workers=alone)


def test_methods_that_fail_take_no_row_of_another(
    outcomes: dict[tuple[str, str], Result], private_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes |= {
        ("m4f", "tinytl"): trained("tinytl"),
        ("m4f", "rep-net"): WorkloadError("the losses differ\nby much"),
        ("m7", "tinytl"): InfrastructureError("QEMU has ended"),
        ("m7", "rep-net"): trained("rep-net", device="m7"),
    }
    left_out = [Unmeasured("m4f", "pockengine", "", "pockengine runs on devices of class linux", is_failure=False)]
    assert run_methods("m4f,m7,m55", ("tinytl", "rep-net"), left_out) == 1
    assert "m4f: the losses differ" in capsys.readouterr().err
    (summary,) = (private_lab / "reports").glob("2*/summary.md")
    table = summary.read_text().split("### Methods on devices")[1].split("###")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table if line.startswith("|")][2:]
    reasons = {(row[0], row[1].split()[1]): row[2] for row in rows}
    wanted = {(method, device) for method in ("tinytl", "rep-net") for device in ("m4f", "m7", "m55")}
    assert set(reasons) == wanted | {("pockengine", "m4f")}
    assert len(rows) == 7
    assert reasons["rep-net", "m4f"] == "the losses differ", "the first line"
    assert reasons["tinytl", "m7"] == "QEMU has ended"
    assert reasons["tinytl", "m55"] == "no QEMU"
    assert reasons["tinytl", "m4f"] == "50.00\u00a0%"
    page = (summary.parent / "index.html").read_text()
    assert "pockengine runs on devices of class linux" in page
    assert "2 passed, 2 stopped" in page
    assert page.count("the losses differ") == 2, "at the top and in its row"


def test_what_a_passing_fault_of_the_bench_stopped_runs_once_more(
    outcomes: dict[tuple[str, str], Result], private_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fault = TransportError("connection lost", transient=True)
    outcomes |= {("m4f", "tinytl"): fault, ("m7", "tinytl"): TransportError("no route", transient=False)}

    def told(text: str) -> int:
        return capsys.readouterr().err.count(text)

    assert run_methods("m4f", ("tinytl",)) == 1, "and the second time it is told"
    assert told("connection lost") == 2
    assert run_methods("m7", ("tinytl",)) == 1
    assert told("no route") == 1


def test_the_second_run_of_a_method_replaces_the_first() -> None:
    """Rounds, and what runs once more after a fault."""
    twice = [trained("tinytl", claims=False), replace(trained("tinytl", accuracy=0.6), run_id="second")]
    (row,) = method_rows(twice)
    assert (row.anchor, row.figures[0]) == ("run-2", "60.00\u00a0%")


def test_a_session_that_goes_on_measures_only_what_it_lacks(
    outcomes: dict[tuple[str, str], Result], private_lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes |= {("m4f", "tinytl"): trained("tinytl"), ("m7", "tinytl"): WorkloadError("the losses differ")}
    assert run_methods("m4f,m7", ("tinytl",)) == 1
    (summary,) = (private_lab / "reports").glob("2*/summary.md")
    outcomes |= {("m4f", "tinytl"): WorkloadError("measured twice"), ("m7", "tinytl"): trained("tinytl", device="m7")}
    assert run_methods("m4f,m7", ("tinytl",), resumed=summary.parent.name) == 0
    assert "m4f: tinytl passed in this session" in capsys.readouterr().out
    table = summary.read_text().split("### Methods on devices")[1].split("###")[0]
    assert table.count("| tinytl | ✅") == 2
    with pytest.raises(ConfigError, match="holds no runs of session '1999'"):
        run_methods("m4f", ("tinytl",), resumed="1999")


@pytest.mark.parametrize(("status", "again"), [("passed", 0), ("failed", 1)])
def test_a_session_that_goes_on_measures_again_what_stood_beside_a_refused_baseline(
    outcomes: dict[tuple[str, str], Result], private_lab: Path, status: Literal["passed", "failed"], again: int
) -> None:
    outcomes["m4f", "tinytl"] = trained("tinytl")
    assert run_methods("m4f", ("tinytl",)) == 0
    (summary,) = (private_lab / "reports").glob("2*/summary.md")
    session, beside = summary.parent.name, trained("tinytl", variant="update=full", claims=False)
    with Store(private_lab / "store") as store:
        store.save(replace(beside, run_id="beside", session_id=session, status=status))
    outcomes["m4f", "tinytl"] = WorkloadError("measured again")
    assert run_methods("m4f", ("tinytl",), resumed=session, baseline="update=full") == again


def test_where_all_pass_so_does_the_command(outcomes: dict[tuple[str, str], Result], private_lab: Path) -> None:
    outcomes["m4f", "tinytl"] = trained("tinytl")
    assert run_methods("m4f", ("tinytl",)) == 0
    (summary,) = (private_lab / "reports").glob("2*/summary.md")
    assert "### Figures" in summary.read_text()


def test_where_nothing_ran_there_is_no_report(outcomes: dict[tuple[str, str], Result], private_lab: Path) -> None:
    outcomes["m4f", "tinytl"] = WorkloadError("nothing was learned")
    assert run_methods("m4f", ("tinytl",)) == 1
    assert not (private_lab / "reports").exists()
