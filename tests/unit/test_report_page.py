"""The page as a reader gets it: parsed back with html.parser, never compared with stored text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import os
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import StoreError
from measurements.record import Buffer, Layer, Provenance, Record, Run, RunDetail, Source, Trace
from measurements.report import publish, render, write_report
from measurements.statistics import make_record

VOID = {"meta", "link", "br", "hr", "img", "input", "rect", "path", "line"}
LAYERS = (
    ("stem", "conv2d 10x4 s2 + relu", 640_000, 2_624),
    ("blocks.0.dw", "depthwise 3x3 + relu", 72_000, 832),
    ("blocks.0.pw", "conv2d 1x1 + relu", 512_000, 4_352),
    ("blocks.1.dw", "depthwise 3x3 + relu", 72_000, 832),
    ("blocks.1.pw", "conv2d 1x1 + relu", 512_000, 4_352),
    ("pool", "mean over time and frequency", 8_000, 0),
    ("classifier", "linear", 640, 680),
)


def figure(
    region: str,
    metric: str,
    unit: str,
    raw: Sequence[float],
    source: Source = "emulated",
    note: str = "",
) -> Record:
    """Summarise ``raw`` with NumPy, independently of measurements.statistics."""
    values = np.asarray(raw, dtype=np.float64)
    spread = 1.96 * float(values.std()) / math.sqrt(len(values))
    middle = float(np.median(values))
    return Record(
        region,
        metric,
        unit,
        source,
        tuple(raw),
        len(raw),
        middle,
        middle - spread,
        middle + spread,
        float(np.percentile(values, 95)),
        float(np.percentile(values, 99)),
        float(raw[0]),
        "marker" if metric == "energy" else "none",
        0.0,
        note,
    )


def provenance(device: str = "m4-a", *, virtual: bool = True) -> Provenance:
    return Provenance(
        device=device,
        board="mps2-an386" if virtual else "nucleo-f446re",
        clock="virtual" if virtual else "dwt",
        clock_hz=25e6 if virtual else 180e6,
        emulator="qemu-system-arm 7.2.9" if virtual else "",
        meter="ppk2 (emulated)" if virtual else "ppk2 C0FFEE",
        meter_uncertainty=0.02,
        energy_model="board file mps2-an386, typical run currents" if virtual else "",
        workload="keyword-digits",
        variant="ds-cnn-s",
        parameters={"filters": "64", "blocks": "2"},
        seed=7,
        dataset="free spoken digits, speaker held out",
        dataset_digest="ab" * 32,
        artifact_digest="cd" * 32,
        build_id="0123456789abcdef",
        toolchain="arm-none-eabi-gcc 12.2.1",
        flags="-O2 -mcpu=cortex-m4 -mfpu=fpv4-sp-d16 -mfloat-abi=hard -ffunction-sections -fdata-sections",
        git_commit="da1b66b0c0ffee00112233445566778899aabbcc",
        git_dirty=True,
        lab_version="0.1.0",
    )


def detail() -> RunDetail:
    layers = tuple(
        Layer(i, name, operator, macs, weights, 900.0 + 1.6 * macs, 900 + int(1.6 * macs), macs // 2, macs // 9)
        for i, (name, operator, macs, weights) in enumerate(LAYERS)
    )
    sizes = (490, 8000, 8000, 8000, 8000, 8000, 64, 10)
    buffers = tuple(
        Buffer(f"act{i}" if i else "input", 0 if i % 2 else 8000, size, max(0, i - 1), min(i, 6))
        for i, size in enumerate(sizes)
    )
    return RunDetail(layers, buffers, 16_512, 16_000, (), ("Outputs equal the host build bit for bit.",))


def records(rng: np.random.Generator, *, virtual: bool = True) -> tuple[Record, ...]:
    cycles = [2_914_003.0] * 20 if virtual else [float(v) for v in rng.normal(1_480_000, 9_000, 60).round()]
    hz, source = (25e6, "emulated") if virtual else (180e6, "hardware")
    return (
        figure("inference", "latency", "s", [c / hz for c in cycles], _source(source), "virtual" if virtual else ""),
        figure("inference", "cycles", "cycles", cycles, _source(source)),
        figure("inference", "instructions", "instructions", cycles, _source(source)),
        figure(
            "inference",
            "energy",
            "J",
            [float(v) for v in rng.normal(1.25e-3, 6e-6, 20)],
            "modelled" if virtual else "hardware",
        ),
        figure("idle", "power", "W", [3.3e-3], "modelled" if virtual else "hardware"),
        figure("run", "accuracy", "1", [0.934], _source(source)),
        figure("run", "accuracy.reference", "1", [0.936], "modelled"),
        figure("run", "peak_ram", "bytes", [19_840.0], _source(source)),
        figure("run", "peak_ram.arena", "bytes", [16_512.0], _source(source)),
        figure("run", "peak_ram.stack", "bytes", [1_312.0], _source(source)),
        figure("run", "peak_ram.static", "bytes", [1_016.0], _source(source)),
        figure("run", "flash", "bytes", [41_300.0], _source(source)),
        *(
            figure(f"layer/{i:02d} {name}", "cycles", "cycles", [900.0 + 1.6 * macs] * 5, _source(source))
            for i, (name, _, macs, _) in enumerate(LAYERS)
        ),
    )


def _source(text: str) -> Literal["emulated", "hardware"]:
    return "hardware" if text == "hardware" else "emulated"


def make_run(number: int = 1, device: str = "m4-a", *, virtual: bool = True) -> Run:
    rng = np.random.default_rng(number)
    return Run(
        run_id=f"20261121T0900{number:02d}-{device}",
        session_id="session-1",
        started_ns=1_795_251_600_000_000_000 + number,
        status="passed",
        provenance=provenance(device, virtual=virtual),
        records=records(rng, virtual=virtual),
        detail=detail(),
        test="tests/hil/test_keyword.py::test_keyword[m4-a]",
    )


def failing_run() -> Run:
    run = make_run(3, "m7-b")
    return dataclasses.replace(
        run,
        status="error",
        error="m7-b: no frame for 2.0 s after `run`, pc <0x2f10> in conv2d_s8 at conv.c:88\n  -> run it again",
        retries=("reset by emulator restart: serial line closed",),
        records=run.records[-1:],
        detail=RunDetail(),
    )


def make_trace(passes: int = 20, peak_a: float = 0.0213) -> Trace:
    rng = np.random.default_rng(5)
    current = rng.normal(1.0e-3, 2e-5, 2_000 + passes * 3_000).astype(np.float32)
    logic = np.zeros(len(current), dtype=np.uint8)
    for index in range(passes):
        begin = 1_500 + index * 3_000
        current[begin : begin + 2_300] = rng.normal(9e-3, 3e-4, 2_300) + 3e-3 * np.sin(np.arange(2_300) / 140.0)
        logic[begin : begin + 2_300] = 1
    current[1_700] = peak_a
    current[4_000:4_080] = np.nan
    return Trace(0.25, 1e-5, 3.3, current, logic, 80)


def sample_page() -> tuple[list[Run], dict[str, Trace]]:
    """Two emulated devices that passed, one that failed, one on hardware."""
    runs = [make_run(1), make_run(2, "m7-a"), failing_run(), make_run(4, "rack-2", virtual=False)]
    return runs, {runs[0].run_id: make_trace(), runs[3].run_id: make_trace(4)}


class Reader(HTMLParser):
    """Collects what a test asks about, and checks that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.badges: list[str] = []
        self.tags: list[str] = []
        self.script = ""
        self._stack: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self._stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in found.items()]
        if "id" in found:
            self.ids.append(found["id"])
        if tag not in VOID:
            self._stack.append((tag, found.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._stack[-1][0] == tag
        self._stack.pop()

    def handle_data(self, data: str) -> None:
        if any(tag == "style" for tag, _ in self._stack):
            return
        if any(tag == "script" for tag, _ in self._stack):
            self.script += data
            return
        self.texts.append(data)
        if self._stack and self._stack[-1][1].startswith("badge "):
            self.badges.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).replace("\u202f", "").split())


def read(runs: Sequence[Run], traces: dict[str, Trace] | None = None) -> Reader:
    return Reader(render(runs, traces or {}))


def test_page_loads_nothing() -> None:
    runs, traces = sample_page()
    text = render(runs, traces)
    page = Reader(text)
    packed = [value for _, name, value in page.attributes if name == "data-values"]
    assert len(packed) == 2
    for value in packed:
        text = text.replace(value, "")
    script = page.script
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.replace(script, ""))
    assert not re.search(r"fetch|XMLHttp|WebSocket|import|eval|Function\(|https?:", script)
    assert not {"img", "link", "iframe", "object"} & set(page.tags)
    links = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert links
    assert all(link.startswith("#") and link[1:] in page.ids for link in links)
    policy = next(value for _, name, value in page.attributes if name == "content" and "default-src" in value)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert page.tags.count("script") == 1
    assert ("script", "src") not in {(tag, name) for tag, name, _ in page.attributes}


def test_ids_are_unique_and_well_formed() -> None:
    runs, traces = sample_page()
    page = read([*runs, runs[0]], traces)
    assert len(page.ids) == len(set(page.ids))
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in page.ids)


def test_all_figures_are_on_the_page() -> None:
    run = make_run()
    page = read([run], {run.run_id: make_trace()})
    text = page.text.replace("\u00a0", " ")
    expected = ("116.6 ms", "2914003 cycles", "19.38 KiB", "40.33 KiB", "93.40 %", "reference 93.60 %", "−0.20 points")
    for figure_text in expected:
        assert figure_text in text
    energy = next(record for record in run.records if record.metric == "energy")
    assert f"{energy.median * 1e3:.3f} mJ" in text
    assert f"95 % CI [{energy.ci_low * 1e3:.3f}, {energy.ci_high * 1e3:.3f}]" in text
    assert "All 20 repeats equal: 2914003 cycles." in text
    for name, operator, macs, _ in LAYERS:
        assert name in text
        assert operator in text
        assert str(macs) in text
    for fact in (run.provenance.toolchain, run.provenance.flags, run.provenance.build_id, "da1b66b0c0ff", run.test):
        assert fact in text
    assert "with uncommitted changes" in text
    assert "one instruction at the board's nominal clock" in text
    assert "mps2-an386 25 MHz" in text


def test_layer_bars_are_proportional_to_cycles() -> None:
    text = render([make_run()], {})
    widths = [float(w) for w in re.findall(r'class="track"[^>]*><i style="width:([\d.]+)%', text)]
    cycles = np.array([900.0 + 1.6 * macs for _, _, macs, _ in LAYERS])
    np.testing.assert_allclose(widths, 100.0 * cycles / cycles.max(), atol=0.01)


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (make_run(), {"emulated", "virtual time", "modelled energy"}),
        (make_run(2, "rack", virtual=False), {"hardware"}),
        (
            dataclasses.replace(
                make_run(), provenance=dataclasses.replace(provenance(), clock="cntvct", energy_model=""), records=()
            ),
            {"emulated"},
        ),
    ],
)
def test_badges(run: Run, wanted: set[str]) -> None:
    assert set(read([run]).badges) == wanted


def test_virtual_and_hardware_share_no_table() -> None:
    text = render([make_run(1), make_run(2, "rack", virtual=False)], {})
    tables = [table for table in re.findall(r"<table.*?</table>", text, re.S) if "cards summary" in table]
    assert len(tables) == 2
    for table in tables:
        assert ("virtual time</span>" in table) != ('badge hardware"' in table)


def test_error_bars_share_an_axis_within_a_table() -> None:
    slow = make_run(2, "rack-2", virtual=False)
    fast = dataclasses.replace(slow, records=(figure("inference", "latency", "s", [0.002, 0.002], "hardware"),))
    text = render([slow, fast], {})
    widths = [float(width) for width in re.findall(r'class="fill" style="width:([\d.]+)%', text)]
    slow_latency = slow.records[0].median
    assert widths[2] / widths[0] == pytest.approx(0.002 / slow_latency, rel=1e-3)
    assert max(widths) <= 100.0


def test_runs_of_model_files_stand_in_a_table_of_plan_and_cost() -> None:
    figures = [
        ("inference", "instructions_per_mac", "instructions/MAC", 3.75),
        ("run", "macs", "MAC", 2_656_768.0),
        ("run", "arena", "bytes", 16064.0),
        ("run", "arena.lower_bound", "bytes", 16064.0),
        ("run", "arena.published_reserve", "bytes", 204800.0),
    ]
    added = tuple(make_record(region, name, unit, "emulated", [value]) for region, name, unit, value in figures)
    plain, model = make_run(1), make_run(2, "m7")
    page = render([plain, dataclasses.replace(model, records=(*model.records, *added))], {})
    table = page[page.index("Models: plan and cost") :]
    table = table[: table.index("</table>")]
    for text in ("Published reserve", "3.75", "15.69", "200"):
        assert text in table
    assert ">m7</a>" in table
    assert f">{plain.provenance.device}</a>" not in table
    assert "Models: plan and cost" not in render([plain], {})


def test_failed_run_is_named_first_with_error_and_retries() -> None:
    runs, traces = sample_page()
    page = read(runs, traces)
    text = page.text
    assert "3 passed, 1 error" in text
    assert text.index("no frame for 2.0 s") < text.index("Summary")
    assert "-> run it again" in text
    assert "Tried again 1 time reset by emulator restart: serial line closed" in text
    assert "No power trace was captured." in text
    assert "No memory plan was recorded." in text


def test_missing_parts_are_said_and_not_drawn() -> None:
    bare = dataclasses.replace(make_run(), records=(), detail=RunDetail())
    page = read([bare])
    for sentence in ("No figure was recorded.", "No layers", "No memory plan", "No power trace"):
        assert sentence in page.text
    assert "svg" not in page.tags
    empty = Trace(0.0, 1e-5, 3.3, np.full(9, np.nan, np.float32), np.zeros(9, np.uint8), 9)
    assert "The power trace holds no sample." in read([bare], {bare.run_id: empty}).text


def test_no_runs_make_a_page() -> None:
    assert "No run was recorded." in read([]).text


def test_everything_is_escaped() -> None:
    nasty = "<script>alert('x')</script>&\"'"
    run = make_run()
    given_provenance = dataclasses.replace(
        run.provenance, device=nasty, workload=nasty, flags=nasty, emulator=nasty, parameters={nasty: nasty}
    )
    record = figure(nasty, nasty, nasty, [1.0, 2.0], note=nasty)
    plan = RunDetail((Layer(0, nasty, nasty, 1, 1, 1.0),), (Buffer(nasty, 0, 10, 0, 0),), 10, 10, (), (nasty,))
    run = dataclasses.replace(
        run, provenance=given_provenance, records=(record,), detail=plan, error=nasty, retries=(nasty,), status="failed"
    )
    text = render([run], {}, title=nasty, notes=[nasty])
    page = Reader(text)
    assert text.count("<script") == page.tags.count("script") == 1
    assert "alert" not in page.script
    assert page.text.count(nasty) >= 10


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_no_nan_or_infinity_reaches_the_page(raw: list[float]) -> None:
    records = tuple(
        Record(region, metric, unit, "emulated", tuple(raw), len(raw), raw[0], raw[0], raw[0], raw[0], raw[0], raw[0])
        for region, metric, unit in (
            ("inference", "latency", "s"),
            ("inference", "cycles", "cycles"),
            ("inference", "energy", "J"),
            ("run", "peak_ram", "bytes"),
            ("run", "peak_ram.stack", "bytes"),
            ("run", "accuracy", "1"),
            ("run", "accuracy.reference", "1"),
        )
    )
    layers = tuple(Layer(i, "l", "op", 10, 10, value) for i, value in enumerate(raw))
    run = dataclasses.replace(make_run(), records=records, detail=RunDetail(layers))
    page = Reader(render([run], {}))
    assert not re.search(r"\b(nan|inf|infinity)\b", page.text, re.I)
    assert not any(re.search(r"\b(nan|inf)\b", value, re.I) for _, _, value in page.attributes)


def test_hundred_runs_stay_small() -> None:
    trace = make_trace()
    runs = [make_run(number, f"m4-{number}") for number in range(100)]
    size = len(render(runs, {run.run_id: trace for run in runs}).encode())
    assert size < 8_000_000
    page = read(runs)
    assert "100 runs, 100 devices, 1 workload" in page.text
    assert ("details", "open", "") not in page.attributes


def test_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report([make_run()], {}, tmp_path / "r")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left"):
        write_report([make_run(2)], {}, tmp_path / "r")
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["index.html"]


def test_publish_replaces_the_link(tmp_path: Path) -> None:
    root = tmp_path / "reports"
    first = write_report([make_run()], {}, root / "a", title="one")
    second = write_report([make_run()], {}, root / "b", title="two")
    publish(first, root)
    assert (root / "latest" / "index.html").read_text() == first.read_text()
    publish(second, root)
    assert (root / "latest").readlink() == Path("b")
    assert sorted(entry.name for entry in root.iterdir()) == ["a", "b", "latest"]


def test_publish_leaves_a_real_folder_alone(tmp_path: Path) -> None:
    report = write_report([make_run()], {}, tmp_path / "a")
    (tmp_path / "latest").mkdir()
    with pytest.raises(StoreError, match="must be a link"):
        publish(report, tmp_path)
    assert (tmp_path / "latest").is_dir()
