"""One run's section of the page: plain, already formatted values for the template."""

from __future__ import annotations

from dataclasses import dataclass

from measurements.memory import WHOLE
from measurements.record import Record, Run, Trace
from measurements.rejection import REASONS
from measurements.report.badges import Badge, badges
from measurements.report.charts import (
    Distribution,
    MemoryMap,
    Part,
    PowerChart,
    distribution,
    memory_map,
    power_chart,
    stacked,
)
from measurements.report.environment import EnvironmentView, environment_view
from measurements.report.layer_table import LayerTable, layer_table
from measurements.report.lookup import (
    STATUS_WORDS,
    anchor_of,
    commit_of,
    find_record,
    is_single,
    ticks_of,
    when,
    workload_name,
)
from measurements.report.record_table import RawRow, RecordRow, raw_row, record_row
from measurements.report.roofline_table import RooflineTable, roofline_table
from measurements.report.training_step import TrainingStepView, training_step
from measurements.report.units import quantity, short
from measurements.report.zoom import Zoom, zoom


@dataclass(frozen=True)
class RunView:
    """One run's section."""

    anchor: str
    title: str
    status: str
    status_word: str
    is_open: bool
    badges: tuple[Badge, ...]
    when: str
    error: str
    retries: tuple[str, ...]
    notes: tuple[str, ...]
    records: tuple[RecordRow, ...]
    layer_records: tuple[RecordRow, ...]
    raw: tuple[RawRow, ...]
    layers: LayerTable | None
    arena: MemoryMap | None
    training: TrainingStepView | None
    ram: tuple[Part, ...]
    ram_total: str
    power: PowerChart | None
    zoom: Zoom | None
    distributions: tuple[Distribution, ...]
    facts: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    rejections: tuple[tuple[str, str, str], ...] = ()
    meter_notes: tuple[str, ...] = ()
    evidence: tuple[tuple[str, str], ...] = ()
    environment: EnvironmentView | None = None
    roofline: RooflineTable | None = None


def run_view(run: Run, number: int, trace: Trace | None, buckets: tuple[int, int], few: bool) -> RunView:
    """Arrange one run for the page.

    Args:
        run, trace: what is shown.
        number: its place among the runs of the page, from 1.
        buckets: of its power chart and of the one to zoom into.
        few: whether the page has so few runs that all sections start open.
    """
    anchor = anchor_of(number)
    plain = [record for record in run.records if not is_single(record.region)]
    layered = [record for record in run.records if is_single(record.region)]
    total = find_record(run, "peak_ram")
    ram = stacked(
        total.median if total else None,
        [(r.metric.partition(".")[2].replace("_", " "), r.median) for r in run.records if _is_part(r)],
    )
    chart = power_chart(trace, _region_names(run), buckets[0]) if trace is not None else None
    layers = layer_table(run.detail.layers, run.records, ticks=ticks_of(run))
    arena = memory_map(run.detail)
    timed = _timed_records(run)
    return RunView(
        anchor=anchor,
        title=f"{run.provenance.device} · {workload_name(run.provenance)}",
        status=run.status,
        status_word=STATUS_WORDS[run.status],
        is_open=few or run.status != "passed",
        badges=badges(run),
        when=when(run.started_ns),
        error=run.error,
        retries=run.retries,
        notes=run.detail.notes,
        records=tuple(record_row(record) for record in plain),
        layer_records=tuple(record_row(record) for record in layered),
        raw=tuple(raw_row(record) for record in plain if len(record.raw) > 1),
        layers=layers,
        arena=arena,
        training=training_step(run, anchor),
        ram=ram,
        ram_total=quantity(total.median, "bytes") if total else "",
        power=chart,
        zoom=zoom(trace, _region_names(run), buckets[1]) if trace is not None else None,
        distributions=tuple(distribution(record) for record in timed),
        facts=_facts(run),
        missing=_missing(run, trace, chart, layers, arena, bool(timed)),
        rejections=tuple((one.reason, REASONS.get(one.reason, ""), one.message) for one in run.detail.rejections),
        meter_notes=run.detail.meter_notes,
        evidence=run.detail.evidence,
        environment=None if run.detail.environment is None else environment_view(run.detail.environment),
        roofline=roofline_table(run),
    )


def _missing(
    run: Run,
    trace: Trace | None,
    chart: PowerChart | None,
    layers: LayerTable | None,
    arena: MemoryMap | None,
    timed: bool,
) -> tuple[str, ...]:
    said = (
        (not run.records, "No figure was recorded."),
        (bool(run.records) and not timed, "No latency and no cycles were recorded."),
        (layers is None, "No layers: the schedule of the model is not known for this run."),
        (
            layers is not None and layers.basis != layers.ticks,
            "Layers were not profiled: their bars do not show what they take.",
        ),
        (arena is None, "No memory plan was recorded."),
        (trace is None, "No power trace was captured."),
        (trace is not None and chart is None, "The power trace holds no sample."),
    )
    return tuple(sentence for applies, sentence in said if applies)


def _timed_records(run: Run) -> list[Record]:
    """Return one record per timed region: cycles where the clock counts instructions, latency where it is a clock."""
    order = ("cycles", "latency") if run.provenance.clock == "virtual" else ("latency", "cycles")
    chosen: dict[str, Record] = {}
    for metric in reversed(order):
        for record in run.records:
            if record.metric == metric and not is_single(record.region):
                chosen[record.region] = record
    return list(chosen.values())


def _region_names(run: Run) -> list[str]:
    passes = sorted((begin, region) for region, _, begin, _ in run.detail.events if not region.startswith("layer"))
    return [region for _, region in passes]


def _is_part(record: Record) -> bool:
    return record.metric.startswith("peak_ram.") and record.unit == "bytes" and record.metric not in WHOLE


def _facts(run: Run) -> tuple[tuple[str, str], ...]:
    p = run.provenance
    clock = f"{p.clock}, {short(p.clock_hz, 'Hz')}"
    if p.clock == "virtual":
        clock += " (one tick is one instruction)"
    meter = f"{p.meter}, class uncertainty ±{100.0 * p.meter_uncertainty:.3g}\u00a0%" if p.meter else "none"
    parameters = ", ".join(f"{key} = {value}" for key, value in p.parameters.items())
    facts = (
        ("Run", run.run_id),
        ("Session", run.session_id),
        ("Test", run.test or "run by hand"),
        ("Device", p.device),
        ("Board", p.board),
        ("Clock", clock),
        ("Emulator", p.emulator or "none (hardware)"),
        ("Meter", meter),
        ("Energy model", p.energy_model or "none"),
        ("Workload", workload_name(p)),
        ("Parameters", parameters),
        ("Seed", str(p.seed)),
        ("Dataset", p.dataset),
        ("Dataset SHA-256", p.dataset_digest),
        ("Image SHA-256", p.artifact_digest),
        ("Build id", p.build_id),
        ("Toolchain", p.toolchain),
        ("Flags", p.flags),
        ("Commit", commit_of(p)),
        ("Lab version", p.lab_version),
        ("Temperature", "" if p.temperature_c is None else f"{p.temperature_c:.1f} °C"),
        ("Throttled", "" if p.throttled is None else ("yes" if p.throttled else "no")),
    )
    return tuple((name, value) for name, value in facts if value)
