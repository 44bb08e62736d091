"""The lab as MLPerf Tiny's runner: the rules of each mode, and the named error of each way to break them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers.scripted_dut import START_UP, ScriptedDut, ScriptedMeter, Served
from hypothesis import given
from hypothesis import strategies as st

from lab import progress
from lab.calibrations import Calibration, save
from lab.cli import main
from lab.errors import ConfigError, Crash, DeviceError, Hang, LabError, MeterError, ProtocolError, WorkloadError
from lab.meter_config import MeterConfig, Ppk2Config
from lab.mlperf import modes
from lab.mlperf.benchmarks import WINDOW_S, WINDOWS, benchmark
from lab.mlperf.client import Dut
from lab.mlperf.command import _print
from lab.mlperf.dataset import read_set
from lab.mlperf.modes import Outcome, area_under_curve, longer_count, run_accuracy, run_energy, run_performance, top_1
from lab.mlperf.session import Request, run
from lab.runs import status_of
from measurements.record import Run
from measurements.rejection import MeasurementRejected
from measurements.store import Store
from measurements.uncertainty import RangeCorrection

KWS = benchmark("kws01")
AD = benchmark("ad01")
INPUTS = [bytes([k]) * 490 for k in range(5)]


def client(scripted: ScriptedDut) -> Dut:
    return Dut(scripted, infer_s=0.1, command_s=0.1)


def performance(scripted: ScriptedDut) -> Outcome:
    outcome = Outcome()
    dut = client(scripted)
    dut.identify()
    run_performance(dut, KWS, INPUTS, outcome)
    return outcome


# ---- the client -----------------------------------------------------------------------------------------------------


def test_identity() -> None:
    found = client(ScriptedDut(model="ic01")).identify()
    assert (found.name, found.profile, found.model) == ("scripted", "ULPMark for tinyML Firmware V0.0.1", "ic01")


def test_start_up_lines_noise_and_a_spoilt_first_command_are_skipped() -> None:
    scripted = ScriptedDut()
    scripted.said += b"\xff\x00\x80noise"
    scripted.say("", *START_UP)
    scripted.pending += b"db 0"  # somebody's unfinished command, before ours
    scripted.replies = lambda command: ["e-[what?]", "m-ready"] if command == "db 0name" else None
    assert client(scripted).identify().model == "kws01"
    assert scripted.commands[:2] == ["db 0name", "name"]


def test_a_load_is_31_bytes_a_command_and_arrives_whole() -> None:
    scripted, data = ScriptedDut(), bytes(range(256)) + bytes(234)
    client(scripted).load(data)
    assert scripted.loads == [data]
    assert max(len(command) for command in scripted.commands) == len("db ") + 62


def test_a_comma_behind_the_last_result_is_taken() -> None:
    """The public reference of vww01 prints one."""
    scripted = ScriptedDut()
    scripted.replies = lambda command: _infer_lines("m-results-[0.25,0.75,]") if command[0] == "i" else None
    assert client(scripted).infer(1, 0).results == (0.25, 0.75)


def _infer_lines(*results: str, laps: Sequence[str] = ("m-lap-us-5", "m-lap-us-9"), warmups: int = 0) -> list[str]:
    head = [f"m-warmup-start-{warmups}", "m-warmup-done", "m-infer-start-1"]
    return [*head, *laps, "m-infer-done", *results, "m-ready"]


def _to(prefix: str, lines: list[str]) -> Callable[[str], list[str] | None]:
    return lambda command: lines if command.startswith(prefix) else None


@pytest.mark.parametrize(
    ("prefix", "lines", "kind", "message"),
    [
        ("infer", ["e-[no]", "m-ready"], ProtocolError, r"was answered 'e-\[no\]'"),
        ("infer", ["m-ready"], ProtocolError, "expected"),
        ("infer", _infer_lines("m-results-[0.1]")[1:], ProtocolError, "m-warmup-start-0"),
        ("infer", _infer_lines(), ProtocolError, "m-results"),
        ("infer", _infer_lines("m-results-[0.1,x]"), ProtocolError, "with numbers"),
        ("infer", _infer_lines("m-results-[]"), ProtocolError, "with numbers"),
        ("infer", _infer_lines("m-results-[nan]"), ProtocolError, "finite"),
        ("infer", _infer_lines("m-results-[0.1]", laps=["m-lap-us--4", "m-lap-us-5"]), ProtocolError, "whole number"),
        ("infer", ["Input db has 3 elemented", *_infer_lines("m-results-[0.1]")], ProtocolError, "begin with m- or e-"),
        ("infer", ["m-warmup-start-0"], Hang, "no line within 0.1 s after 'infer 1 0'"),
        ("infer", START_UP, Crash, "started anew during 'infer 1 0'"),
        ("infer", ["\xff\xfe"], ProtocolError, "baud rate"),
        ("infer", ["m-\x07"], ProtocolError, "baud rate"),
    ],
)
def test_each_break_of_the_protocol_has_its_error(
    prefix: str, lines: list[str], kind: type[DeviceError], message: str
) -> None:
    scripted = ScriptedDut(replies=_to(prefix, lines))
    with pytest.raises(kind, match=message):
        client(scripted).infer(1, 0)


@pytest.mark.parametrize(
    ("prefix", "lines", "message"),
    [
        ("db load", ["Supplied buffer size 490 exceeds maximum of 100", "m-ready"], "begin with m- or e-"),
        ("db load", ["m-[Expecting 489 bytes]", "m-ready"], "Expecting 490"),
        ("db 00", ["m-ready"], "bytes 465 to 490"),
        ("db 00", ["m-load-done", "m-ready"], "bytes 0 to 31"),
    ],
)
def test_a_load_that_does_not_count_like_the_host_is_an_error(prefix: str, lines: list[str], message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        client(ScriptedDut(replies=_to(prefix, lines))).load(bytes(490))


def test_a_silent_port_is_a_hang_that_says_what_to_look_at() -> None:
    scripted = ScriptedDut(replies=lambda command: [])
    with pytest.raises(Hang, match=r"no line within 0\.1 s after 'name'") as caught:
        client(scripted).identify()
    assert "baud rate" in caught.value.hint
    assert scripted.commands == ["name"] * 3


def test_a_port_that_says_something_else_for_ever_is_no_device() -> None:
    scripted = ScriptedDut(replies=lambda command: ["login:"] * 100)
    with pytest.raises(ProtocolError, match="64 other lines, the last 'login:'"):
        client(scripted).identify()


def test_bytes_without_an_end_of_line_do_not_fill_the_memory() -> None:
    scripted = ScriptedDut()
    scripted.replies = lambda command: scripted.said.extend(b"x" * 100_000) or []
    with pytest.raises(ProtocolError, match="65536 bytes without a line's end"):
        client(scripted).infer(1, 0)


def test_a_device_without_a_model_is_no_device() -> None:
    scripted = ScriptedDut(replies=_to("profile", ["m-profile-[x]", "m-ready"]))
    with pytest.raises(ProtocolError, match="m-model"):
        client(scripted).identify()


@given(noise=st.binary(max_size=300))
def test_any_bytes_end_in_an_error_of_the_device(noise: bytes) -> None:
    scripted = ScriptedDut()
    scripted.replies = lambda command: scripted.said.extend(noise) or []
    with pytest.raises(DeviceError):
        Dut(scripted, infer_s=0.001, command_s=0.001).infer(1, 0)


# ---- performance ----------------------------------------------------------------------------------------------------


def test_five_windows_with_a_count_that_lasts_ten_seconds() -> None:
    scripted = ScriptedDut()  # 0.1 s each: 70 last 7 s
    outcome = performance(scripted)
    assert outcome.adaptations == [(70, 7.0)]
    assert [window.iterations for window in outcome.windows] == [105] * WINDOWS
    assert [window.elapsed_s for window in outcome.windows] == pytest.approx([10.5] * WINDOWS)
    assert scripted.loads == INPUTS
    assert scripted.commands.count("infer 105 10") == WINDOWS


def test_the_references_count_stays_where_it_lasts_long_enough() -> None:
    outcome = performance(ScriptedDut(elapsed_us=lambda number, count: 143_000 * count))
    assert outcome.adaptations == []
    assert {window.iterations for window in outcome.windows} == {70}


def test_a_device_a_million_times_faster_is_found_in_steps() -> None:
    outcome = performance(ScriptedDut(elapsed_us=lambda number, count: max(1, count // 10)))
    assert len(outcome.adaptations) >= 2
    assert all(window.elapsed_s >= WINDOW_S for window in outcome.windows)
    assert outcome.windows[0].iterations <= 1.1 * 100e6


@pytest.mark.parametrize(
    ("scripted", "kind", "message"),
    [
        (
            ScriptedDut(elapsed_us=lambda number, count: 9_999_999 if number == 2 else 11_000_000),
            WorkloadError,
            r"window 3 of 5 lasted 9\.999999 s with 70 inferences; a window must last at least 10 s",
        ),
        (ScriptedDut(elapsed_us=lambda number, count: 1_000_000), WorkloadError, r"window 1 of 5 lasted 1\.0+ s"),
        (ScriptedDut(timestamps=False), WorkloadError, "gave 0 timestamps"),
        (ScriptedDut(elapsed_us=lambda number, count: -5), ProtocolError, "clock stands still or went backwards"),
        (ScriptedDut(elapsed_us=lambda number, count: 0), ProtocolError, "from 1000 to 1000"),
        (ScriptedDut(results=lambda data: [0.1] * 10), WorkloadError, "12 results; the device gave 10"),
        (
            ScriptedDut(replies=_to("infer", _infer_lines("m-results-[0]", laps=["m-lap-us-1"], warmups=10))),
            ProtocolError,
            "m-infer-start-70",
        ),
    ],
)
def test_each_broken_rule_of_performance_mode_has_its_error(
    scripted: ScriptedDut, kind: type[LabError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        performance(scripted)


def test_one_timestamp_of_two_is_named() -> None:
    lines = [line.replace("start-1", "start-70") for line in _infer_lines("m-results-[" + "0.1," * 12 + "]")]
    lines = [line.replace("warmup-start-70", "warmup-start-10") for line in lines if line != "m-lap-us-9"]
    lines[0] = "m-warmup-start-10"
    with pytest.raises(WorkloadError, match="gave 1 timestamps"):
        performance(ScriptedDut(replies=_to("infer", lines)))


@given(count=st.integers(1, 10**7), elapsed_s=st.floats(1e-6, 9.9999999))
def test_a_longer_count_is_longer_and_aims_beyond_the_least(count: int, elapsed_s: float) -> None:
    more = longer_count(count, elapsed_s)
    assert count < more <= 1000 * count
    assert more == 1000 * count or more * elapsed_s / count >= WINDOW_S


# ---- accuracy -------------------------------------------------------------------------------------------------------


def kws_folder(folder: Path, labels: Sequence[int], nested: bool = True) -> Path:
    place = folder / "kws01" if nested else folder
    place.mkdir(exist_ok=True)
    for number, label in enumerate(labels):
        (place / f"{number}.bin").write_bytes(bytes([number, label]) + bytes(488))
    (place / "y_labels.csv").write_text("".join(f"{n}.bin,12,{label}\n" for n, label in enumerate(labels)))
    return folder


@pytest.mark.parametrize("nested", [True, False])
def test_top_1_over_the_whole_set(tmp_path: Path, nested: bool) -> None:
    labels = [0, 3, 11, 5, 5, 2]
    wrong = {1, 4}

    def results(data: bytes) -> list[float]:
        scores = [0.0] * 12
        scores[(data[1] + (data[0] in wrong)) % 12] = 0.9
        return scores

    scripted, outcome = ScriptedDut(results=results), Outcome()
    run_accuracy(client(scripted), KWS, read_set(kws_folder(tmp_path, labels, nested), KWS), outcome)
    assert top_1(outcome) == pytest.approx(4 / 6)
    assert outcome.labels == labels
    assert scripted.commands.count("infer 1 0") == len(labels)


def ad_folder(folder: Path, files: Sequence[tuple[int, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]) -> Path:
    rows = []
    for number, (label, values) in enumerate(files):
        (folder / f"{number}.bin").write_bytes(values.astype("<f4").tobytes())
        rows.append(f"{number}.bin,2,{label},2560,512\n")
    (folder / "y_labels.csv").write_text("".join(rows))
    return folder


def test_ad01_sends_overlapping_segments_and_gives_the_area_under_the_curve(tmp_path: Path) -> None:
    """Slices of 128 values, 5 to a segment; the area is the share of pairs in the right order (Mann and Whitney)."""
    generator = np.random.default_rng(1)
    slices = [5, 7, 6, 5, 8, 6]
    labels = [0, 1, 0, 1, 1, 0]
    arrays = [generator.normal(size=128 * n).astype(np.float32) + np.float32(n % 3) for n in slices]
    scripted = ScriptedDut(
        model="ad01", results=lambda data: [float(np.mean(np.square(np.frombuffer(data, "<f4"))))]
    )
    outcome = Outcome()
    labelled = read_set(ad_folder(tmp_path, list(zip(labels, arrays, strict=True))), AD)
    run_accuracy(client(scripted), AD, labelled, outcome)
    segments = [array[128 * k : 128 * k + 640] for array in arrays for k in range(array.size // 128 - 4)]
    assert scripted.loads == [segment.astype("<f4").tobytes() for segment in segments]
    scores = [
        np.mean([round(float(np.mean(np.square(a[128 * k : 128 * k + 640]))), 3) for k in range(a.size // 128 - 4)])
        for a in arrays
    ]
    assert [score for (score,) in outcome.scores] == pytest.approx(scores, abs=1e-3)
    pairs = [
        (scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j])
        for i in range(6) for j in range(6) if labels[i] == 1 and labels[j] == 0
    ]  # fmt: skip
    assert area_under_curve(outcome) == pytest.approx(np.mean(pairs))


def test_one_class_has_no_area() -> None:
    with pytest.raises(WorkloadError, match="needs both"):
        area_under_curve(Outcome(labels=[1, 1], scores=[(0.1,), (0.2,)]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0.bin,12", "2 columns; kws01 has 3"),
        ("0.bin,12,3,4", "4 columns"),
        ("0.bin,12,x", "no whole number"),
        ("0.bin,12,12", "class 12 of 12"),
        ("0.bin,12,-1", "class -1"),
        ("0.bin,10,1", "has 12 classes"),
        ("", "names no files"),
        ("\udcff", "no CSV text"),
    ],
)
def test_a_wrong_truth_file_is_refused_with_its_line(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "y_labels.csv").write_bytes(row.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message):
        read_set(tmp_path, KWS)


@pytest.mark.parametrize(
    ("row", "message"),
    [("0.bin,2,0", "3 columns; ad01 has 5"), ("0.bin,2,0,2559,512", "2559 bytes"), ("0.bin,2,0,2560,0", "0 apart")],
)
def test_wrong_segments_are_refused(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "y_labels.csv").write_text(row)
    with pytest.raises(ConfigError, match=message):
        read_set(tmp_path, AD)


def test_a_set_that_is_not_there_and_files_of_wrong_sizes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds y_labels\.csv"):
        read_set(tmp_path, KWS)
    labelled = read_set(kws_folder(tmp_path, [1, 2]), KWS)
    (tmp_path / "kws01" / "0.bin").write_bytes(bytes(489))
    (tmp_path / "kws01" / "1.bin").unlink()
    with pytest.raises(ConfigError, match="489 bytes, loaded 489 at a time; one inference takes 490"):
        labelled.samples[0].segments()
    with pytest.raises(ConfigError, match="cannot be read"):
        labelled.samples[1].segments()


# ---- energy ---------------------------------------------------------------------------------------------------------


def metered(meter: ScriptedMeter, **options: object) -> ScriptedDut:
    scripted = ScriptedDut(timestamps=False, **options)  # type: ignore[arg-type]
    scripted.on_infer = lambda number, count: meter.window(number, scripted.elapsed_us(number, count) * 1e-6)
    return scripted


def energy(meter: ScriptedMeter, scripted: ScriptedDut) -> Outcome:
    outcome = Outcome()
    run_energy(client(scripted), KWS, INPUTS, outcome, meter, 7)
    return outcome


def test_energy_between_the_two_edges() -> None:
    """10 mA at 3 V over the window: what lies before and after it does not count."""
    meter = ScriptedMeter()
    outcome = energy(meter, metered(meter))
    assert outcome.adaptations == [(70, 7.0)]
    assert [window.iterations for window in outcome.windows] == [105] * WINDOWS
    assert [window.elapsed_s for window in outcome.windows] == pytest.approx([10.5] * WINDOWS)
    energies = [window.energy_j for window in outcome.windows]
    assert energies == pytest.approx([3.0 * 0.01 * 10.5] * WINDOWS, rel=1e-6)
    assert outcome.trace is not None
    # One to find the count, and one thrown away before it.
    assert meter.starts == WINDOWS + 2


def _late(number: int, seconds: float) -> list[int]:
    return [500, 500 + round(1000 * seconds) - (1 if number == 3 else 0)]


@pytest.mark.parametrize(
    ("meter", "kind", "message"),
    [
        (ScriptedMeter(edges=lambda n, s: [500]), WorkloadError, "1 falling edges on logic input 7"),
        (ScriptedMeter(edges=lambda n, s: []), WorkloadError, "0 falling edges"),
        (ScriptedMeter(edges=lambda n, s: [500, 3000, 10_800]), WorkloadError, "3 falling edges"),
        (ScriptedMeter(lost=1), MeterError, "lost 1 of 8000 samples"),
        (ScriptedMeter(saturated=2), MeterError, "2 were saturated"),
    ],
)
def test_each_broken_rule_of_energy_mode_has_its_error(
    meter: ScriptedMeter, kind: type[LabError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "_EDGES_S", 0.2)
    with pytest.raises(kind, match=message):
        energy(meter, metered(meter))


def test_a_short_window_by_the_meters_clock() -> None:
    meter = ScriptedMeter(edges=_late)
    with pytest.raises(WorkloadError, match=r"window 4 of 5 lasted 9\.999000 s"):
        energy(meter, metered(meter, elapsed_us=lambda number, count: 10_000_000))


def test_firmware_in_performance_mode_is_refused() -> None:
    meter = ScriptedMeter()
    scripted = metered(meter)
    scripted.timestamps = True
    with pytest.raises(WorkloadError, match="not in energy mode"):
        energy(meter, scripted)


def test_a_measured_voltage_is_what_counts() -> None:
    meter = ScriptedMeter(voltage_v=2.9)
    outcome = energy(meter, metered(meter))
    energies = [window.energy_j for window in outcome.windows]
    assert energies == pytest.approx([2.9 * 0.01 * 10.5] * WINDOWS, rel=1e-6)
    assert outcome.trace is not None
    assert outcome.trace.trace.measured_v is not None


def test_a_supply_that_left_its_range_is_no_measurement() -> None:
    meter = ScriptedMeter(voltage_v=2.8)
    with pytest.raises(MeasurementRejected, match=r"2\.8 to 2\.8 V; 2\.85 to 3\.15 V are allowed"):
        energy(meter, metered(meter))


def test_the_class_of_the_meter_and_the_samples_at_the_edges_are_known() -> None:
    """10 % of the current, 1 % of the voltage, 50 ppm of the clock; half a sample of 10 mA at either edge."""
    meter = ScriptedMeter()
    (window, *_) = energy(meter, metered(meter)).windows
    assert window.energy_j is not None
    assert window.class_j == pytest.approx((0.1 + 0.01 + 50e-6) * window.energy_j, rel=1e-3)
    assert window.edge_j == pytest.approx(3.0 * 0.01 * 1e-3, rel=0.1)


# ---- the store and the command line ---------------------------------------------------------------------------------


def stored(folder: Path) -> Run:
    with Store(folder) as store:
        (one,) = store.runs()
    return one


def value(one: Run, region: str, metric: str) -> float:
    return next(record.median for record in one.records if (record.region, record.metric) == (region, metric))


def test_a_valid_run_is_stored_with_its_medians(tmp_path: Path) -> None:
    seconds = [10.0, 10.4, 10.1, 10.2, 10.3]
    scripted = ScriptedDut(elapsed_us=lambda number, count: round(seconds[number] * 1e6))
    with Served(scripted) as served, Store(tmp_path) as store:
        run(Request(served.url, KWS, "performance"), store, "s")
    one = stored(tmp_path)
    assert one.status == "passed"
    assert (one.provenance.workload, one.provenance.variant) == ("mlperf-tiny/kws01", "performance")
    assert value(one, "inference", "latency") == pytest.approx(10.2 / 70)
    assert value(one, "inference", "throughput") == pytest.approx(70 / 10.2)
    assert {record.source for record in one.records} == {"hardware"}
    assert {record.n for record in one.records} == {5}
    assert one.provenance.device == "scripted"
    assert one.provenance.clock == "device"
    # The device's own timestamps are as good through a network; nothing was timed by this computer.
    assert "reached through a network: nothing here was timed by this computer's clock" in one.detail.notes


def test_what_the_user_calls_emulated_is_stored_as_emulated(tmp_path: Path) -> None:
    with Served(ScriptedDut()) as served, Store(tmp_path) as store:
        one = run(Request(served.url, KWS, "performance", emulated=True), store, "s")
    assert {record.source for record in one.records} == {"emulated"}
    assert all("not comparable with hardware" in record.note for record in one.records)
    assert one.provenance.clock == "virtual"
    assert not any("network" in note for note in one.detail.notes)


def test_energy_reaches_the_store(tmp_path: Path) -> None:
    meter = ScriptedMeter(emulated=True)
    with Served(metered(meter)) as served, Store(tmp_path) as store:
        one = run(Request(served.url, KWS, "energy", meter=meter, edge_input=7), store, "s")
        trace = store.trace(one.run_id)
    assert value(one, "inference", "energy") == pytest.approx(3.0 * 0.01 * 0.1)
    assert value(one, "inference", "power") == pytest.approx(0.03)
    assert {record.source for record in one.records if record.metric in {"energy", "power"}} == {"modelled"}
    assert trace is not None
    assert set(trace.logic.tolist()) == {0, 1}


def calibrated(folder: Path, identity: str = "7") -> MeterConfig:
    """A meter whose calibration says that it shows a tenth too little, to 0.1 %."""
    config = Ppk2Config(kind="ppk2", port="/dev/serial/by-id/usb-ppk2")
    ranges = (RangeCorrection(1.0, 1.1, 0.0, 0.001, 0.0),)
    save(folder, config, Calibration(identity, "2026-11-01T10:00:00+00:00", ranges, ()))
    return config


def test_the_labs_own_calibration_is_applied_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_STORE", str(tmp_path))
    meter, config = ScriptedMeter(), calibrated(tmp_path)
    with Served(metered(meter)) as served, Store(tmp_path) as store:
        request = Request(served.url, KWS, "energy", meter=meter, edge_input=7, meter_config=config)
        one = run(request, store, "s")
        trace = store.trace(one.run_id)
    record = next(record for record in one.records if record.metric == "energy")
    assert record.median == pytest.approx(1.1 * 3.0 * 0.01 * 0.1)
    assert "corrected by the calibration of 2026-11-01" in record.note
    assert record.class_uncertainty == pytest.approx((0.001 + 0.01 + 50e-6) * record.median, rel=1e-2)
    assert record.combined_uncertainty is not None
    assert trace is not None
    assert float(trace.current_a.max()) == pytest.approx(0.011)


def test_what_the_command_line_says_of_energy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    meter = ScriptedMeter()
    with Served(metered(meter)) as served, Store(tmp_path) as store:
        _print(run(Request(served.url, KWS, "energy", meter=meter, edge_input=7), store, "s"))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " energy " in line and "median" in line]
    assert "median 3 mJ ±330" in line
    assert "meter ±330" in line
    assert "runs ±" in line


def test_a_calibration_of_another_meter_is_not_used_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_STORE", str(tmp_path))
    meter, config = ScriptedMeter(), calibrated(tmp_path, identity="8")
    with Served(metered(meter)) as served, Store(tmp_path) as store:
        one = run(Request(served.url, KWS, "energy", meter=meter, edge_input=7, meter_config=config), store, "s")
    assert value(one, "inference", "energy") == pytest.approx(3.0 * 0.01 * 0.1)
    assert any("the calibration of 2026-11-01 is not used" in note for note in one.detail.notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--meter-port", "/dev/x", "--meter-of", "m4f"], "both name a meter"),
        (["--meter-of", "m4f"], "has no meter of its own"),
        (["--meter-of", "nobody"], "has no meter of its own"),
        ([], "energy mode needs a meter"),
    ],
)
def test_a_meter_that_cannot_be_used_is_refused(
    options: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_STORE", str(tmp_path))
    arguments = ["mlperf", "run", "--port", "/dev/none", "--model", "kws01", "--mode", "energy", *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert message in done.output


@pytest.mark.parametrize(
    ("scripted", "status", "windows"),
    [
        (ScriptedDut(elapsed_us=lambda number, count: 9_000_000 if number == 3 else 11_000_000), "failed", 3),
        (ScriptedDut(model="ic01"), "failed", 0),
    ],
)
def test_an_invalid_run_is_stored_with_the_reason_and_what_was_valid(
    tmp_path: Path, scripted: ScriptedDut, status: str, windows: int
) -> None:
    with Served(scripted) as served, Store(tmp_path) as store, pytest.raises(LabError) as caught:
        run(Request(served.url, KWS, "performance"), store, "s")
    one = stored(tmp_path)
    assert (one.status, one.error) == (status, str(caught.value))
    assert {record.n for record in one.records} == ({windows} if windows else set())


def test_a_port_that_does_not_open_is_the_benchs_error(tmp_path: Path) -> None:
    with Store(tmp_path) as store, pytest.raises(LabError) as caught:
        run(Request(str(tmp_path / "nothing"), KWS, "performance"), store, "s")
    assert stored(tmp_path).status == status_of(caught.value) == "error"


def test_a_request_that_cannot_be_met_runs_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with pytest.raises(ConfigError, match="needs a meter"):
            run(Request("nowhere", KWS, "energy"), store, "s")
        with pytest.raises(ConfigError, match="needs the labelled set"):
            run(Request("nowhere", KWS, "accuracy"), store, "s")
        assert list(store.runs()) == []


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAB_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("LAB_REPORTS", str(tmp_path / "reports"))
    # The plugin's own sink turns pytest's capturing off and on, and with it the command line tester's.
    monkeypatch.setattr(progress, "_sink", lambda line: None)
    return tmp_path


def test_the_command_line_says_valid_and_writes_a_report(places: Path) -> None:
    folder = kws_folder(places, [0, 1])
    with Served(ScriptedDut()) as served:
        command = ["mlperf", "run", "--port", served.url, "--model", "kws01"]
        timed = CliRunner().invoke(main, command)
        scored = CliRunner().invoke(main, [*command, "--mode", "accuracy", "--data", str(folder)])
    assert timed.exit_code == 0, timed.output
    assert "scripted: mlperf-tiny/kws01 performance: valid" in timed.output
    assert "throughput   median 10 Hz  n=5 hardware" in timed.output
    assert scored.exit_code == 0, scored.output
    assert "accuracy     median 0.5" in scored.output
    page = (places / "reports" / "latest" / "index.html").read_text()
    assert "mlperf-tiny/kws01" in page


def test_the_command_line_fails_with_the_reason(places: Path) -> None:
    scripted = ScriptedDut(elapsed_us=lambda number, count: 10_000_000 - number)
    with Served(scripted) as served:
        done = CliRunner().invoke(main, ["mlperf", "run", "--port", served.url, "--model", "kws01"])
    assert done.exit_code == 1
    assert "window 2 of 5 lasted 9.999999 s" in done.output
    assert "window 2 of 5 lasted" in (places / "reports" / "latest" / "index.html").read_text()
    assert stored(places / "store").status == "failed"


def test_ad01_takes_its_pattern_as_float32(tmp_path: Path) -> None:
    scripted = ScriptedDut(model="ad01", results=lambda data: [0.25])
    with Served(scripted) as served, Store(tmp_path) as store:
        run(Request(served.url, AD, "performance"), store, "s")
    assert len(scripted.loads[0]) == 2560
    assert np.isfinite(struct.unpack("<640f", scripted.loads[0])).all()
