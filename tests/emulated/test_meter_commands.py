"""``lab meter`` against emulated meters: the PPK2's own protocol on a PTY, with and without a board in QEMU."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import tiny_workload
from helpers.sandbox import private_places
from helpers.toolchain import needs_qemu

from lab.calibrations import Calibration, history, now, save
from lab.cli import main
from lab.commands.meter_selftest import LEVELS_A, REAL_TIME, emulated_twin
from lab.emulators.energy_model import EnergyModel
from lab.emulators.meters import MODULES as PEERS
from lab.inventory import load_bench
from lab.paths import cache_dir, default_config
from lab.power import tegrastats
from lab.power.base import MeterInfo, RangeUncertainty, SampleBlock
from lab.power.ppk2 import Ppk2
from lab.power.registry import MODULES as METERS
from measurements.calibration import CalibrationPoint
from measurements.capture import find_windows
from measurements.store import Store
from measurements.traces_io import read_trace
from measurements.uncertainty import RangeCorrection

_KINDS = {
    "ppk2": "{kind: ppk2, emulated: true}",
    "lpm01a": "{kind: lpm01a, emulated: true}",
    "otii": "{kind: otii, emulated: true}",
    "scpi": "{kind: scpi, emulated: true, model: n6705, trigger: external, period: 0.002048}",
}


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in private_places(tmp_path, cache_dir()).items():
        monkeypatch.setenv(name, value)
    tiny_workload.register()
    return tmp_path


def lab(*arguments: str, config: Path | None = None) -> Result:
    chosen = [] if config is None else ["--config", str(config)]
    return CliRunner().invoke(main, [*chosen, "meter", *arguments])


def bench(folder: Path, meter: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(f"devices:\n  one:\n    board: mps2-an386\n    emulated: true\n    meter: {meter}\n")
    return path


def test_list_names_every_meter_and_what_it_says_of_itself() -> None:
    done = lab("list")
    assert done.exit_code == 0, done.output
    assert re.search(r"^m4f +ppk2 +emulated +3\.3 V +none +ready$", done.output, re.MULTILINE)
    assert "host" not in done.output
    asked = lab("list", "--open").output
    assert asked.count("100 kHz, windows found by logic, 8 logic inputs, voltage told") == 3
    assert "up to 60 mA: ±10 % ±50 µA" in asked


def test_a_meter_that_cannot_be_opened_does_not_hide_the_others(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    absent = f"{{kind: hwmon, root: {tmp_path}, chip: ina226}}"
    path.write_text(
        f"devices:\n  here: {{board: host, meter: {absent}}}\n"
        "  one: {board: mps2-an386, emulated: true, meter: {kind: ppk2, emulated: true}}\n"
    )
    listed = lab("list", config=path)
    assert listed.exit_code == 0
    assert re.search(r"^here +hwmon +ina226 1 +- +none +ready$", listed.output, re.MULTILINE), listed.output
    asked = lab("list", "--open", config=path)
    assert asked.exit_code == 1
    assert "here: " in asked.output
    assert "no current monitors fit chip: ina226" in asked.output
    assert "one: PPK2 hardware" in asked.output


def test_a_bench_without_meters(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text("devices:\n  host: {board: host}\n")
    done = lab("list", config=path)
    assert done.exit_code == 1
    assert "no device has a meter" in done.output
    assert "has no meter" in lab("watch", "host", config=path).output


@needs_qemu
def test_watch_shows_lines_where_nobody_redraws() -> None:
    done = lab("watch", "m4f", "--seconds", "0.06", "--every", "0.02", "--workload", "tiny")
    assert done.exit_code == 0, done.output
    lines = [line for line in done.output.splitlines() if line.startswith("time ")]
    assert [line.split("  ")[0] for line in lines] == ["time 20 ms", "time 40 ms", "time 60 ms"]
    energies = [float(line.split("energy ")[1].split()[0]) for line in lines]
    assert energies == sorted(energies)
    last = lines[-1]
    assert last.startswith("time 60 ms")
    assert "voltage 3.3 V" in last
    assert "lost 0" in last
    # Idle draws 1.1 mA and a busy core 2.8 mA: 60 ms take between these.
    unit = {"µJ": 1e-6, "mJ": 1e-3}[last.split("energy ")[1].split()[1]]
    assert 0.99 * 60e-3 * 3.3 * 1.1e-3 <= energies[-1] * unit <= 1.01 * 60e-3 * 3.3 * 2.8e-3


@needs_qemu
def test_record_writes_what_import_reads(tmp_path: Path) -> None:
    first, second = tmp_path / "trace.parquet", tmp_path / "trace.csv"
    done = lab("record", "m4f", str(first), "--seconds", "0.05", "--workload", "tiny")
    assert done.exit_code == 0, done.output
    assert "5000 samples, 50 ms, 0 lost" in done.output
    assert "m4f is emulated: its current is modelled" in done.output
    trace = read_trace(first)
    windows = find_windows(trace)
    assert windows, "the board passed through its region under the meter"
    told = lab("import", str(first), str(second)).output
    assert f"windows    {len(windows)} on D0" in told
    assert "energy" in told
    other = read_trace(second)
    assert other.current_a == pytest.approx(trace.current_a, rel=1e-6)
    assert (other.logic == trace.logic).all()


def test_a_file_of_an_unknown_kind_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    for name in ("trace.txt", "trace.ppk"):
        done = lab("record", "m4f", str(tmp_path / name))
        assert done.exit_code == 1
        assert ".parquet" in done.output


def test_a_folder_that_is_not_there_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.commands.meter_stream.opened", pytest.fail)
    done = lab("record", "m4f", str(tmp_path / "gone" / "trace.csv"))
    assert done.exit_code == 1
    assert "there is no folder" in done.output


def test_a_run_without_a_trace(tmp_path: Path) -> None:
    done = lab("export", "nothing", str(tmp_path / "trace.csv"))
    assert done.exit_code == 1
    assert "no power trace" in done.output or "no run" in done.output


@pytest.mark.parametrize("kind", sorted(_KINDS))
def test_selftest_passes_for_every_kind_with_device_time(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.commands.meter_selftest.LEVELS_A", LEVELS_A[1:2])
    done = lab("selftest", "one", config=bench(tmp_path, _KINDS[kind]))
    assert done.exit_code == 0, done.output
    assert done.output.count(" pass\n") == 3
    assert f"{kind}: passed" in done.output


@pytest.mark.parametrize("model", ["n6705", "ngu", "dp832"])
def test_selftest_of_a_meter_that_only_the_hosts_clock_aligns(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.commands.meter_selftest.LEVELS_A", LEVELS_A[1:2])
    path = bench(tmp_path, f"{{kind: scpi, emulated: true, model: {model}, period: 0.0512}}")
    done = lab("selftest", "one", config=path)
    assert done.exit_code == 0, done.output
    assert done.output.count(" pass\n") == 2
    assert "steady 12 mA" in done.output


def host_bench(folder: Path, meter: str) -> Path:
    path = folder / "bench.yaml"
    path.write_text(f"devices:\n  one:\n    board: host\n    meter: {meter}\n")
    return path


@pytest.mark.parametrize(
    ("meter", "level_a", "figures"),
    [
        ("{kind: hwmon, chip: ina226}", 12e-3, 2),
        ("{kind: hwmon, chip: ina228}", 12e-3, 1),
        ("{kind: rapl, domain: dram, period: 0.05, voltage_v: 12}", 1.0, 1),
        ("{kind: nvml, voltage_v: 12}", 25.0, 1),
        ("{kind: tegrastats, rails: [VDD_GPU_SOC, VDD_CPU_CV], period: 0.05, voltage_v: 5}", 3.0, 1),
        ("{kind: android, serial: phone, voltage_v: 3.85}", 0.9, 2),
        ("{kind: monsoon, voltage_v: 4}", 0.9, 2),
        ("{kind: pmic, voltage_v: 5}", 2.5, 1),
    ],
)
def test_selftest_of_a_meter_whose_time_is_the_hosts(
    meter: str, level_a: float, figures: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters of energy and rails of power tell no charge. hwmon is of 5 V where nobody says otherwise."""
    kind = meter[7:].partition(",")[0]
    monkeypatch.setitem(REAL_TIME, kind, (level_a,))
    done = lab("selftest", "one", config=host_bench(tmp_path, meter))
    assert done.exit_code == 0, done.output
    assert done.output.count(" pass\n") == figures
    assert f"{kind}: passed" in done.output


def test_every_kind_but_one_has_a_selftest() -> None:
    kinds = set(METERS)
    assert kinds - set(PEERS) - set(REAL_TIME) == {"joulescope"}


def test_selftest_sees_a_driver_that_adds_up_wrongly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A per cent too much is well within the class of 5 %, and still wrong."""
    monkeypatch.setitem(REAL_TIME, "tegrastats", (3.0,))
    path = host_bench(tmp_path, "{kind: tegrastats, rails: [A, B], period: 0.05, voltage_v: 5}")
    parse = tegrastats.parse_rails
    monkeypatch.setattr(tegrastats, "parse_rails", lambda line: {name: 1.01 * w for name, w in parse(line).items()})
    done = lab("selftest", "one", config=path)
    assert done.exit_code == 1
    assert "+1.0000 %" in done.output
    assert "FAIL" in done.output


def test_selftest_fails_where_the_driver_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that reads one percent too much is well within the PPK2's class, and still wrong."""
    read = Ppk2.read

    def too_much(meter: Ppk2, timeout_s: float) -> SampleBlock:
        block = read(meter, timeout_s)
        return replace(block, current_a=block.current_a * np.float32(1.01))

    monkeypatch.setattr(Ppk2, "read", too_much)
    monkeypatch.setattr("lab.commands.meter_selftest.LEVELS_A", LEVELS_A[1:2])
    done = lab("selftest", "one", config=bench(tmp_path, _KINDS["ppk2"]))
    assert done.exit_code == 1
    assert "FAIL" in done.output


def test_a_meter_on_hardware_is_checked_by_its_twin() -> None:
    settings = load_bench(default_config()).devices["m4f"].meter
    assert settings is not None
    real = settings.model_validate({"kind": "ppk2", "serial_number": "A1B2C3", "voltage_v": 3.0})
    twin = emulated_twin(real)
    assert (twin.kind, twin.emulated, twin.voltage_v) == ("ppk2", True, 3.0)


def test_what_has_no_peer_has_no_selftest(tmp_path: Path) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(
        "devices:\n  one:\n    board: nucleo-f446re\n    serial: {by_id: A1B2C3}\n"
        "    meter: {kind: joulescope, model: js220}\n"
    )
    done = lab("selftest", "one", config=path)
    assert done.exit_code == 1
    assert "no emulated peer of a joulescope" in done.output


def test_calibrate_stores_a_correction_near_one(places: Path) -> None:
    """The emulated resistors are exact and so is the meter: the correction is none, and says how well that is known."""
    done = lab(
        "calibrate", "m4f", "--resistor", "1k:0.1%", "--resistor", "10k:0.1%", "--volts", "1.0,3.0",
        "--voltage-uncertainty", "0.001", "--seconds", "0.1",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    settings = load_bench(default_config()).devices["m4f"].meter
    assert settings is not None
    (found,) = history(places / "store", settings)
    assert len(found.points) == 4
    assert [one.upto_a for one in found.ranges] == [50e-6, 500e-6, 5e-3]
    for one in found.ranges[1:]:
        assert one.gain == pytest.approx(1.0, abs=2e-3)
        assert one.gain_uncertainty < 0.01
    assert found.ranges[0].gain_uncertainty == 0.1
    assert re.search(r"^m4f .* ready$", lab("list").output, re.MULTILINE)
    assert found.date[:10] in lab("list").output


@pytest.mark.parametrize("kind", ["lpm01a", "otii", "scpi"])
def test_every_kind_can_be_calibrated(kind: str, places: Path) -> None:
    """Also one that waits for its trigger input otherwise. The SCPI instrument's class is 0.05 %: a good resistor."""
    path = bench(places, _KINDS[kind])
    done = lab(
        "calibrate", "one", "--resistor", "1k:0.001%", "--volts", "2.0,3.0", "--voltage-uncertainty", "0.00001",
        "--seconds", "1.5", config=path,
    )  # fmt: skip
    settings = load_bench(path).devices["one"].meter
    assert settings is not None
    assert done.exit_code == 0, done.output
    (found,) = history(places / "store", settings)
    assert [point.shown_a for point in found.points] == pytest.approx([2e-3, 3e-3], rel=1e-3)
    assert found.ranges[-1].gain == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("volts", ["nan", "inf", "0", "-1", "1,", "3 V"])
def test_voltages_that_nothing_supplies(volts: str) -> None:
    done = lab("calibrate", "m4f", "--resistor", "1k:1%", "--voltage-uncertainty", "0.01", f"--volts={volts}")
    assert done.exit_code == 1
    assert f"--volts: found {volts!r}; allowed: voltages above 0" in done.output


@pytest.mark.parametrize(
    ("board", "meter"),
    [
        ("host", "{kind: rapl}"),
        ("raspberry-pi-4, ssh: {host: pi, user: lab}", "{kind: hwmon, label: VDD_IN}"),
        ("raspberry-pi-4, ssh: {host: pi, user: lab}", "{kind: pmic}"),
    ],
)
def test_no_resistor_stands_in_the_place_of_a_device_with_its_own_meter(
    board: str, meter: str, tmp_path: Path
) -> None:
    path = tmp_path / "bench.yaml"
    path.write_text(f"devices:\n  one: {{board: {board}, meter: {meter}}}\n")
    done = lab("calibrate", "one", "--resistor", "1k:1%", "--voltage-uncertainty", "0.01", "--yes", config=path)
    assert done.exit_code == 1
    assert "no resistor can stand in the device's place" in done.output


def test_a_calibration_that_is_no_better_than_the_class_is_not_stored(places: Path) -> None:
    path = bench(places, _KINDS["scpi"])
    done = lab(
        "calibrate", "one", "--resistor", "1k:1%", "--volts", "3.0", "--voltage-uncertainty", "0.01",
        "--seconds", "0.5", config=path,
    )  # fmt: skip
    assert done.exit_code == 1
    assert "better than its class" in done.output
    assert not (places / "store" / "calibrations").exists()


def test_a_resistor_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def another(voltage_v: float, idle_a: float, active_a: float) -> EnergyModel:
        return EnergyModel(voltage_v, idle_a / 5, active_a / 5)

    monkeypatch.setattr("lab.commands.meter_calibrate.EnergyModel", another)
    done = lab("calibrate", "m4f", "--resistor", "1k:1%", "--voltage-uncertainty", "0.01", "--seconds", "0.02")
    assert done.exit_code == 1
    assert "the meter shows 0.0002" in done.output


@needs_qemu
def test_the_next_measurement_is_corrected(places: Path) -> None:
    """A stored gain of 1.05 shows in the trace that is recorded next, and is told."""
    settings = load_bench(default_config()).devices["m4f"].meter
    assert settings is not None
    asked = lab("list", "--open").output
    identity = re.search(r"^m4f: (.*)$", asked, re.MULTILINE)
    assert identity is not None
    gain = RangeCorrection(1.0, 1.05, 0.0, 0.001, 0.0)
    point = CalibrationPoint(1000, 1e-3, 1.0, 1e-3, 1e-3, 0.0)
    traces = []
    for name in ("before", "after"):
        path = places / f"{name}.parquet"
        done = lab("record", "m4f", str(path), "--seconds", "0.03", "--workload", "tiny")
        assert done.exit_code == 0, done.output
        assert ("corrected by the calibration of" in done.output) == (name == "after")
        traces.append(read_trace(path).current_a[:400].mean())
        save(places / "store", settings, Calibration(identity[1], now(), (gain,), (point,)))
    assert traces[1] / traces[0] == pytest.approx(1.05, rel=1e-3)


@needs_qemu
def test_a_run_is_corrected_says_so_and_its_trace_can_be_exported(places: Path) -> None:
    settings = load_bench(default_config()).devices["m4f"].meter
    assert settings is not None
    point = CalibrationPoint(1000, 1e-3, 1.0, 1e-3, 1e-3, 0.0)
    old = (datetime.now(UTC) - timedelta(days=500)).isoformat(timespec="seconds")
    gain = RangeCorrection(1.0, 1.05, 0.0, 0.001, 0.0)
    run_it = ["run", "tiny", "--device", "m4f", "--samples", "4"]
    assert CliRunner().invoke(main, run_it).exit_code == 0
    save(places / "store", settings, Calibration("PPK2 hardware 9173, calibrated", old, (gain,), (point,)))
    assert CliRunner().invoke(main, run_it).exit_code == 0
    with Store(places / "store") as store:
        before, after = store.runs()
    # Of the idle power, since the tiny workload's passes are a few samples long.
    idle = [next(one for one in run.records if one.metric == "power.idle") for run in (before, after)]
    assert idle[1].median / idle[0].median == pytest.approx(1.05, rel=1e-3)
    assert f"corrected by the calibration of {old}" in idle[1].note
    # The class of the range is 10 % and 5 µA; the calibration leaves 0.1 % of it, and the noise of the quiet.
    limits = [one.class_uncertainty or 0.0 for one in idle]
    assert limits[0] > 0.1 * idle[0].median
    assert 1e-3 * idle[1].median <= limits[1] < 2e-3 * idle[1].median
    assert any("500 days old" in note for note in after.detail.notes)
    assert not any("calibration" in note for note in before.detail.notes)

    done = lab("export", after.run_id, str(places / "run.csv"))
    assert done.exit_code == 0, done.output
    trace = read_trace(places / "run.csv")
    assert len(find_windows(trace)) == 4


class Resistive:
    """A meter on a desk: what is connected to it draws V/R, and it shows 4 % too little."""

    connected_ohm = 1000.0
    silent = False

    def __init__(self, voltage_v: float) -> None:
        self._voltage_v = voltage_v
        self._next = 0
        self.info = MeterInfo(
            "ppk2", "PPK2 hardware 7, calibrated", 1e3, voltage_v, False, 8, 0.1, False, ranges=(RANGE,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None: ...

    def open(self) -> MeterInfo:
        return self.info

    def start(self) -> None: ...

    def read(self, timeout_s: float) -> SampleBlock:
        count, first = 0 if self.silent else 50, self._next
        self._next += count
        current = np.full(count, 0.96 * self._voltage_v / self.connected_ohm, np.float32)
        return SampleBlock(first, current, np.zeros(count, np.uint8))

    def stop(self) -> SampleBlock:
        return SampleBlock(self._next, np.empty(0, np.float32), np.empty(0, np.uint8))

    def close(self) -> None: ...


RANGE = RangeUncertainty(5e-3, 0.1, 5e-6)
_ON_DESK = """\
devices:
  one:
    board: nucleo-f446re
    serial: {by_id: A1B2C3}
    meter: {kind: ppk2, serial_number: A1B2C3, voltage_v: 3.3}
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bench.yaml"
    path.write_text(_ON_DESK)
    for module in ("commands.meter_calibrate", "devices.connect"):
        monkeypatch.setattr(f"lab.{module}.make_meter", lambda config, voltage_v: Resistive(voltage_v))
    monkeypatch.setattr("lab.commands.meter_calibrate._SETTLE_S", 0.0)
    return path


def test_on_hardware_each_resistor_is_asked_for_and_the_error_is_found(desk: Path, places: Path) -> None:
    command = ["--config", str(desk), "meter", "calibrate", "one", "--resistor", "1k:0.1%", "--seconds", "0.05"]
    command += ["--voltage-uncertainty", "0.001"]
    refused = CliRunner().invoke(main, command, input="n\n")
    assert refused.exit_code == 1
    assert "connect 1000 Ω ±0.1 % in place of one; ready?" in refused.output
    settings = load_bench(desk).devices["one"].meter
    assert settings is not None
    assert history(places / "store", settings) == ()
    done = CliRunner().invoke(main, command, input="y\n")
    assert done.exit_code == 0, done.output
    (found,) = history(places / "store", settings)
    assert found.identity == "PPK2 hardware 7, calibrated"
    assert found.ranges[0].gain == pytest.approx(1 / 0.96, rel=1e-5)


def test_watch_on_hardware_opens_the_meter_alone(desk: Path) -> None:
    done = lab("watch", "one", "--seconds", "0.1", "--every", "0.05", config=desk)
    assert done.exit_code == 0, done.output
    last = done.output.splitlines()[-1]
    # 3.3 V at 1 kΩ, shown 4 % too small: 3.168 mA; 100 ms of it.
    for shown in ("time 100 ms", "current 3.168 mA", "power 10.45 mW", "charge 316.8 µC", "energy 1.045 mJ"):
        assert shown in last


def test_a_meter_that_shows_nothing_ends_the_command(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resistive, "silent", True)
    for module in ("meter_calibrate", "meter_stream"):
        monkeypatch.setattr(f"lab.commands.{module}._SILENT_S", 0.0)
    watched = lab("watch", "one", "--seconds", "1", config=desk)
    assert watched.exit_code == 1
    assert "the meter showed nothing" in watched.output
    options = ["--resistor", "1k:1%", "--voltage-uncertainty", "0.01", "--yes"]
    measured = lab("calibrate", "one", *options, config=desk)
    assert measured.exit_code == 1
    assert "0 samples came" in measured.output
