"""What the page shows of each run: plain, already formatted values for the template."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from markupsafe import Markup

from measurements.record import ArenaSchedule, Layer, Provenance, Record, Run, Trace
from measurements.report.arena_chart import arena_svg, describe
from measurements.report.charts import (
    Distribution,
    ErrorBar,
    MemoryMap,
    Part,
    PowerChart,
    distribution,
    error_bar,
    memory_map,
    power_chart,
    stacked,
)
from measurements.report.night import NightSummary
from measurements.report.units import NO_FIGURE, exact, is_count, quantity, scale_for, short
from measurements.report.zoom import Zoom, zoom

LAYER_PREFIX, STEP_PREFIX = "layer/", "train.layer/"
"""Regions of single layers, and of single steps of training, start with these."""

_STATUS_WORDS = {"passed": "✓ passed", "failed": "✗ failed", "error": "⚠ error", "incomplete": "… incomplete"}
_NIGHT_STATUS = {0: "passed", 1: "failed", 3: "error", 4: "incomplete"}
_NIGHT_WORDS = {0: "✓ passed", 1: "✗ failed", 3: "⚠ the bench failed", 4: "… out of time"}
_RAW_SHOWN = 64
_BUCKETS_OF_PAGE, _BUCKETS_LEAST, _BUCKETS_MOST = 12_000, 150, 600
_ZOOM_OF_PAGE, _ZOOM_LEAST, _ZOOM_MOST = 160_000, 1_000, 16_000


@dataclass(frozen=True)
class Badge:
    """A word of provenance; ``kind`` is its CSS class."""

    kind: str
    text: str
    title: str


@dataclass(frozen=True)
class Cell:
    """A figure of the summary: ``text``, the figure as stored, further lines, an error bar."""

    text: str = NO_FIGURE
    title: str = ""
    details: tuple[str, ...] = ()
    bar: ErrorBar | None = None


@dataclass(frozen=True)
class SummaryRow:
    """One run in the summary table."""

    anchor: str
    device: str
    workload: str
    status: str
    status_word: str
    badges: tuple[Badge, ...]
    accuracy: Cell
    latency: Cell
    cycles: Cell
    ram: Cell
    flash: Cell
    energy: Cell


@dataclass(frozen=True)
class SummaryGroup:
    """Runs whose figures may stand on one axis: the same kind of clock. Hardware and virtual time never share one."""

    title: str
    rows: tuple[SummaryRow, ...]


@dataclass(frozen=True)
class RecordRow:
    """One record, formatted; spread is left empty for a single repeat and where all repeats are equal."""

    region: str
    metric: str
    unit: str
    n: int
    median: str
    interval: str
    p95: str
    p99: str
    first: str
    source: str
    alignment: str
    lost: str
    note: str
    title: str


@dataclass(frozen=True)
class RawRow:
    """The repeats of one record as stored; ``left_out`` counts those not written here."""

    name: str
    unit: str
    values: str
    left_out: int


@dataclass(frozen=True)
class LayerRow:
    """One layer, formatted; empty texts where nothing was measured."""

    index: int
    name: str
    operator: str
    cycles: str
    share: float
    share_text: str
    length: float
    macs: str
    cycles_per_mac: str
    instructions: str
    loads: str
    stores: str
    weights: str


@dataclass(frozen=True)
class LayerTable:
    """The layers of a run and which columns they fill; ``basis`` says what the bars count."""

    rows: tuple[LayerRow, ...]
    basis: str
    has_counts: bool
    summary: str


@dataclass(frozen=True)
class TrainingStepView:
    """A training step: what each step of its schedule costs, and its arena in words and drawn."""

    steps: LayerTable | None
    summary: str
    drawing: Markup


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


@dataclass(frozen=True)
class Trouble:
    """A run that did not pass, named at the top of the page with the first line of its error."""

    anchor: str
    title: str
    status_word: str
    line: str


@dataclass(frozen=True)
class ModelRow:
    """One run of a model file: what the plan and the emulator say of it, as texts in the order of ``MODEL_COLUMNS``."""

    anchor: str
    device: str
    workload: str
    figures: tuple[str, ...]


MODEL_COLUMNS = {
    "MACs": "macs",
    "Instructions": "instructions",
    "per MAC": "instructions_per_mac",
    "Arena": "arena",
    "Lower bound": "arena.lower_bound",
    "Published reserve": "arena.published_reserve",
    "Flash": "flash",
}


@dataclass(frozen=True)
class Page:
    """Everything the template needs."""

    title: str
    when: str
    lab: str
    commit: str
    counts: str
    status: str
    status_word: str
    troubles: tuple[Trouble, ...]
    explanations: tuple[str, ...]
    notes: tuple[str, ...]
    groups: tuple[SummaryGroup, ...]
    models: tuple[ModelRow, ...]
    runs: tuple[RunView, ...]


def page_view(
    runs: Sequence[Run],
    traces: Mapping[str, Trace],
    title: str,
    notes: Sequence[str],
    night: NightSummary | None = None,
) -> Page:
    """Arrange ``runs``, their ``traces`` (by run id) and the night they belong to for the page."""
    share = max(1, len(traces))
    buckets = max(_BUCKETS_LEAST, min(_BUCKETS_MOST, _BUCKETS_OF_PAGE // share))
    fine = max(_ZOOM_LEAST, min(_ZOOM_MOST, _ZOOM_OF_PAGE // share))
    few = len(runs) <= 4
    views = tuple(
        _run_view(run, index, traces.get(run.run_id), (buckets, fine), few) for index, run in enumerate(runs, 1)
    )
    worst = next((s for s in ("error", "failed", "incomplete") if any(run.status == s for run in runs)), "passed")
    return Page(
        title=title,
        when=_when(min(run.started_ns for run in runs)) if runs else "",
        lab=_joined(run.provenance.lab_version for run in runs),
        commit=_joined(_commit(run.provenance) for run in runs),
        counts=_counts(runs),
        status=_NIGHT_STATUS[night.status] if night is not None else worst if runs else "incomplete",
        status_word=_overall(runs) if night is None else _NIGHT_WORDS[night.status],
        troubles=tuple(
            Trouble(view.anchor, view.title, view.status_word, view.error.partition("\n")[0])
            for view in views
            if view.status != "passed"
        ),
        explanations=_explanations(runs),
        notes=tuple(notes),
        groups=_groups(runs),
        models=_models(runs, views),
        runs=views,
    )


def badges(run: Run) -> tuple[Badge, ...]:
    """Say in words where the run's figures come from."""
    provenance = run.provenance
    sources = {record.source for record in run.records}
    emulated = bool(provenance.emulator) or "emulated" in sources
    modelled = bool(provenance.energy_model) or any(
        record.source == "modelled" and record.metric.split(".")[0] in ("energy", "power") for record in run.records
    )
    found: list[Badge] = []
    if emulated:
        found.append(Badge("emulated", "emulated", f"Ran on {provenance.emulator or 'an emulator'}."))
    else:
        found.append(Badge("hardware", "hardware", "Ran on a real device."))
    if provenance.clock == "virtual":
        found.append(Badge("virtual", "virtual time", "One tick of the clock is one instruction."))
    if modelled:
        found.append(Badge("modelled", "modelled energy", provenance.energy_model or "Energy comes from a model."))
    return tuple(found)


def anchor_of(number: int) -> str:
    """Id of the section of the run that is shown at this place, from 1."""
    return f"run-{number}"


def clock_group(run: Run) -> str:
    """Title of the runs whose figures this run's may be compared with: the same kind of clock."""
    if run.provenance.clock == "virtual":
        return "Emulated, virtual time"
    return "Emulated, host time" if run.provenance.emulator else "Hardware"


def main_region(run: Run) -> str:
    """Return the region whose latency stands in the summary: ``inference``, else the first one timed."""
    timed = [
        record.region
        for record in run.records
        if record.metric in ("latency", "cycles")
        and not _is_single(record.region)
        and record.region not in ("idle", "run")
    ]
    if "inference" in timed:
        return "inference"
    return timed[0] if timed else "run"


def layer_table(layers: Sequence[Layer]) -> LayerTable | None:
    """Make the per-layer table; bars count cycles, else instructions, else (nothing measured) MACs."""
    if not layers:
        return None
    basis, sizes = _layer_basis(layers)
    total = sum(sizes)
    longest = max(sizes)
    rows = tuple(
        LayerRow(
            index=layer.index,
            name=layer.name,
            operator=layer.operator,
            cycles=_count(layer.cycles),
            share=size / total if total > 0.0 else 0.0,
            share_text=f"{100.0 * (size / total):.1f}\u00a0%" if total > 0.0 else "",
            length=round(100.0 * (size / longest), 2) if longest > 0.0 else 0.0,
            macs=_count(layer.macs),
            cycles_per_mac=_ratio(layer.cycles, layer.macs),
            instructions=_count(layer.instructions),
            loads=_count(layer.loads),
            stores=_count(layer.stores),
            weights=quantity(layer.weights_bytes, "bytes"),
        )
        for layer, size in zip(layers, sizes, strict=True)
    )
    macs, weights = sum(layer.macs for layer in layers), sum(layer.weights_bytes for layer in layers)
    summary = f"{len(layers)} layers, {_count(macs)} MACs, {quantity(weights, 'bytes')} of weights"
    if basis == "cycles":
        summary += f", {_count(total)} cycles in layers"
    has_counts = any(x is not None for layer in layers for x in (layer.instructions, layer.loads, layer.stores))
    return LayerTable(rows, basis, has_counts, summary + ".")


def _run_view(run: Run, number: int, trace: Trace | None, buckets: tuple[int, int], few: bool) -> RunView:
    anchor = anchor_of(number)
    plain = [record for record in run.records if not _is_single(record.region)]
    layered = [record for record in run.records if _is_single(record.region)]
    total = find_record(run, "peak_ram")
    ram = stacked(
        total.median if total else None,
        [(r.metric.partition(".")[2].replace("_", " "), r.median) for r in run.records if _is_part(r)],
    )
    chart = power_chart(trace, _region_names(run), buckets[0]) if trace is not None else None
    layers = layer_table(run.detail.layers)
    arena = memory_map(run.detail)
    timed = _timed_records(run)
    return RunView(
        anchor=anchor,
        title=f"{run.provenance.device} · {workload_name(run.provenance)}",
        status=run.status,
        status_word=_STATUS_WORDS[run.status],
        is_open=few or run.status != "passed",
        badges=badges(run),
        when=_when(run.started_ns),
        error=run.error,
        retries=run.retries,
        notes=run.detail.notes,
        records=tuple(_record_row(record) for record in plain),
        layer_records=tuple(_record_row(record) for record in layered),
        raw=tuple(_raw_row(record) for record in plain if len(record.raw) > 1),
        layers=layers,
        arena=arena,
        training=_training_step(run, anchor),
        ram=ram,
        ram_total=quantity(total.median, "bytes") if total else "",
        power=chart,
        zoom=zoom(trace, _region_names(run), buckets[1]) if trace is not None else None,
        distributions=tuple(distribution(record) for record in timed),
        facts=_facts(run),
        missing=_missing(run, trace, chart, layers, arena, bool(timed)),
    )


def _training_step(run: Run, anchor: str) -> TrainingStepView | None:
    schedule = run.detail.training
    if schedule is None or not schedule.steps or not schedule.buffers:
        return None
    summary = f"{describe(schedule)}. Trained variables take {quantity(schedule.variables_bytes, 'bytes')} besides."
    title = f"One training step on {run.provenance.device}, {workload_name(run.provenance)}"
    # The drawing escapes every text it is given.
    drawing = Markup(arena_svg(schedule, title=title, identity=f"{anchor}-arena"))
    return TrainingStepView(_step_table(schedule, run.records), summary, drawing)


def _step_table(schedule: ArenaSchedule, records: Sequence[Record]) -> LayerTable | None:
    """The steps of training with what was measured of each, as a table of layers without weights."""
    measured: dict[tuple[str, str], float] = {(one.region, one.metric): one.median for one in records}
    rows = []
    for index, step in enumerate(schedule.steps):
        region = f"{STEP_PREFIX}{index:02} {step.name}"
        instructions = measured.get((region, "instructions"))
        counted = int(instructions) if instructions is not None and math.isfinite(instructions) else None
        kind = f"{step.operator}, {step.phase}"
        cycles = measured.get((region, "cycles"))
        rows.append(Layer(index, step.name, kind, step.macs, 0, cycles, counted))
    table = layer_table(rows)
    if table is None:
        return None
    return replace(table, summary=f"{len(rows)} steps, {_count(sum(row.macs for row in rows))} MACs.")


def _is_single(region: str) -> bool:
    return region.startswith((LAYER_PREFIX, STEP_PREFIX))


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
            layers is not None and layers.basis != "cycles",
            "Layers were not profiled: their bars do not show cycles.",
        ),
        (arena is None, "No memory plan was recorded."),
        (trace is None, "No power trace was captured."),
        (trace is not None and chart is None, "The power trace holds no sample."),
    )
    return tuple(sentence for applies, sentence in said if applies)


def _groups(runs: Sequence[Run]) -> tuple[SummaryGroup, ...]:
    titles = ("Emulated, virtual time", "Emulated, host time", "Hardware")
    kinds = [(title, [one for one in enumerate(runs, 1) if clock_group(one[1]) == title]) for title in titles]
    return tuple(SummaryGroup(title, _summary_rows(members)) for title, members in kinds if members)


def _summary_rows(members: Sequence[tuple[int, Run]]) -> tuple[SummaryRow, ...]:
    tops = {metric: _top(metric, [run for _, run in members]) for metric in ("latency", "cycles", "energy")}
    rows = []
    for number, run in members:
        region = main_region(run)
        cycles = find_record(run, "cycles", region) or find_record(run, "instructions", region)
        rows.append(
            SummaryRow(
                anchor=anchor_of(number),
                device=run.provenance.device,
                workload=workload_name(run.provenance),
                status=run.status,
                status_word=_STATUS_WORDS[run.status],
                badges=badges(run),
                accuracy=_accuracy(run),
                latency=_spread_cell(find_record(run, "latency", region), tops["latency"]),
                cycles=_plain_cell(cycles),
                ram=_plain_cell(find_record(run, "peak_ram")),
                flash=_plain_cell(find_record(run, "flash")),
                energy=_spread_cell(find_record(run, "energy", region), tops["energy"]),
            )
        )
    return tuple(rows)


def _top(metric: str, runs: Sequence[Run]) -> float:
    found = [find_record(run, metric, main_region(run)) for run in runs]
    values = [v for record in found if record is not None for v in (record.median, record.ci_high, record.p95)]
    return 1.04 * max((value for value in values if math.isfinite(value)), default=0.0)


def _models(runs: Sequence[Run], views: Sequence[RunView]) -> tuple[ModelRow, ...]:
    """Rows for the runs whose workload is a model file: those that say what an arena of theirs is planned to be."""
    rows = []
    for run, view in zip(runs, views, strict=True):
        if find_record(run, "arena.lower_bound") is None:
            continue
        found = [find_record(run, metric, "inference") for metric in MODEL_COLUMNS.values()]
        texts = tuple("" if record is None else short(record.median, record.unit) for record in found)
        rows.append(ModelRow(view.anchor, run.provenance.device, workload_name(run.provenance), texts))
    return tuple(rows)


def find_record(run: Run, metric: str, region: str = "") -> Record | None:
    """Return the record of ``metric`` in ``region``, else in the whole run, else the first there is outside layers."""
    matches = [r for r in run.records if r.metric == metric and not _is_single(r.region)]
    ranked = sorted(matches, key=lambda r: (r.region != region, r.region != "run"))
    return ranked[0] if ranked else None


def _spread_cell(record: Record | None, top: float) -> Cell:
    if record is None:
        return Cell()
    scale = scale_for(record.median, record.unit, record.metric)
    if record.n > 1 and len(set(record.raw)) == 1:
        lines = [f"all {record.n} repeats equal"]
    elif record.n > 1:
        lines = [f"95 % CI {_interval(record)}", f"p95 {scale.number(record.p95)}"]
    else:
        lines = ["one repeat"]
    title = f"{record.region}: median {exact(record.median, record.unit)}, n = {record.n}"
    return Cell(scale.text(record.median), title, tuple(lines), error_bar(record, top))


def _plain_cell(record: Record | None) -> Cell:
    if record is None:
        return Cell()
    title = f"{record.region} · {record.metric}: {exact(record.median, record.unit)}"
    if is_count(record.unit):
        return Cell(scale_for(record.median, record.unit).number(record.median), title, (record.unit,))
    return Cell(quantity(record.median, record.unit, record.metric), title)


def _accuracy(run: Run) -> Cell:
    measured, reference = find_record(run, "accuracy"), find_record(run, "accuracy.reference")
    if measured is None:
        return Cell()
    text = quantity(measured.median, "1", "accuracy")
    title = f"{exact(measured.median, '1')} of 1"
    if reference is None or not math.isfinite(reference.median) or not math.isfinite(measured.median):
        return Cell(text, title, ("no reference recorded",))
    points = 100.0 * (measured.median - reference.median)
    if not math.isfinite(points):
        return Cell(text, title, ("too far from the reference to compare",))
    gap = "equal to it" if abs(points) < 0.005 else f"{points:+.2f} points".replace("-", "−")
    details = (f"reference {quantity(reference.median, '1', 'accuracy')}", gap)
    return Cell(text, f"{title}, reference {exact(reference.median, '1')}", details)


def _record_row(record: Record) -> RecordRow:
    scale = scale_for(record.median, record.unit, record.metric)
    equal = record.n > 1 and len(set(record.raw)) == 1
    spread = record.n > 1 and not equal
    return RecordRow(
        region=record.region,
        metric=record.metric,
        unit=record.unit,
        n=record.n,
        median=scale.text(record.median),
        interval="all equal" if equal else _interval(record) if spread else "",
        p95=scale.number(record.p95) if spread else "",
        p99=scale.number(record.p99) if spread else "",
        first=scale.number(record.first) if spread else "",
        source=record.source,
        alignment="" if record.alignment == "none" else record.alignment,
        lost=f"{100.0 * record.lost_fraction:.3g}\u00a0%" if record.lost_fraction > 0.0 else "",
        note=record.note,
        title=f"median {exact(record.median, record.unit)}; 95 % CI {exact(record.ci_low, record.unit)} to "
        f"{exact(record.ci_high, record.unit)}",
    )


def _interval(record: Record) -> str:
    scale = scale_for(record.median, record.unit, record.metric)
    return f"[{scale.number(record.ci_low)}, {scale.number(record.ci_high)}]"


def _raw_row(record: Record) -> RawRow:
    shown = ", ".join(exact(value, "1") for value in record.raw[:_RAW_SHOWN])
    return RawRow(f"{record.region} · {record.metric}", record.unit, shown, max(0, len(record.raw) - _RAW_SHOWN))


def _timed_records(run: Run) -> list[Record]:
    """Return one record per timed region: cycles where the clock counts instructions, latency where it is a clock."""
    order = ("cycles", "latency") if run.provenance.clock == "virtual" else ("latency", "cycles")
    chosen: dict[str, Record] = {}
    for metric in reversed(order):
        for record in run.records:
            if record.metric == metric and not _is_single(record.region):
                chosen[record.region] = record
    return list(chosen.values())


def _region_names(run: Run) -> list[str]:
    passes = sorted((begin, region) for region, _, begin, _ in run.detail.events if not region.startswith("layer"))
    return [region for _, region in passes]


def _is_part(record: Record) -> bool:
    return record.metric.startswith("peak_ram.") and record.unit == "bytes"


def _layer_basis(layers: Sequence[Layer]) -> tuple[str, list[float]]:
    if any(layer.cycles is not None for layer in layers):
        return "cycles", [_finite(layer.cycles) for layer in layers]
    if any(layer.instructions is not None for layer in layers):
        return "instructions", [_finite(layer.instructions) for layer in layers]
    return "MACs", [_finite(layer.macs) for layer in layers]


def _finite(value: float | None) -> float:
    return max(0.0, float(value)) if value is not None and math.isfinite(value) else 0.0


def _count(value: float | None) -> str:
    return "" if value is None else scale_for(value, "cycles").number(value)


def _ratio(cycles: float | None, macs: int) -> str:
    return "" if cycles is None or macs <= 0 or not math.isfinite(cycles) else f"{cycles / macs:.2f}"


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
        ("Commit", _commit(p)),
        ("Lab version", p.lab_version),
        ("Temperature", "" if p.temperature_c is None else f"{p.temperature_c:.1f} °C"),
        ("Throttled", "" if p.throttled is None else ("yes" if p.throttled else "no")),
    )
    return tuple((name, value) for name, value in facts if value)


def _explanations(runs: Sequence[Run]) -> tuple[str, ...]:
    said: list[str] = []
    virtual = [run.provenance for run in runs if run.provenance.clock == "virtual"]
    if virtual:
        rates = _joined(f"{p.board} {short(p.clock_hz, 'Hz')}" for p in virtual)
        said.append(
            "Emulated devices run in an emulator that counts instructions. Their clock is virtual: its unit is one "
            f"instruction at the board's nominal clock ({rates}). Cycles and latency in virtual time therefore count "
            "work. They repeat exactly, so that a change of one instruction shows, but they know nothing of caches, "
            "pipelines or flash wait states and are never compared with hardware figures."
        )
    if any(run.provenance.energy_model for run in runs):
        said.append(
            "Modelled energy is read by an emulated meter, in the device's virtual time, from a model of the board; "
            "each run names the model's source. It checks the whole way from marker to joule; it does not tell what "
            "a real board draws."
        )
    if any(not run.provenance.emulator and run.provenance.clock != "virtual" for run in runs):
        said.append("Runs marked hardware were measured on real devices and are summarised in a table of their own.")
    return tuple(said)


def _overall(runs: Sequence[Run]) -> str:
    if not runs:
        return "no runs"
    tally = {status: sum(run.status == status for run in runs) for status in _STATUS_WORDS}
    if tally["passed"] == len(runs):
        return "✓ all passed" if len(runs) > 1 else "✓ passed"
    return ", ".join(f"{count} {status}" for status, count in tally.items() if count)


def _counts(runs: Sequence[Run]) -> str:
    devices = len({run.provenance.device for run in runs})
    workloads = len({workload_name(run.provenance) for run in runs})
    return ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in ((len(runs), "run"), (devices, "device"), (workloads, "workload"))
    )


def _joined(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(text for text in texts if text))


def _commit(provenance: Provenance) -> str:
    if not provenance.git_commit:
        return "not in a checkout"
    return provenance.git_commit[:12] + (" with uncommitted changes" if provenance.git_dirty else "")


def workload_name(provenance: Provenance) -> str:
    """Workload and variant as they are shown."""
    return f"{provenance.workload} ({provenance.variant})" if provenance.variant else provenance.workload


def _when(started_ns: int) -> str:
    return datetime.fromtimestamp(started_ns / 1e9, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
