"""tegrastats: its lines of several generations, and a stream of them.

Sample lines: Nano, AGX Xavier, Xavier NX, Orin Nano and AGX Orin from tests and documentation of public projects that
read them (the Jetson check of a monitoring agent, a board's documentation page); TX2 in the form that Nvidia's forum
and jetson_stats have it. Between the CPU's load and the rails parts are left out where they repeat.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.virtual_clock import VirtualClock, stream

from lab.errors import MeterError, ToolMissing
from lab.meter_config import TegrastatsConfig
from lab.power.polled import PolledReport
from lab.power.registry import make_meter
from lab.power.tegrastats import ProgramLines, parse_rails, tegrastats_meter

NANO_JP4 = (
    "RAM 534/3964MB (lfb 98x4MB) SWAP 5/1982MB (cached 1MB) IRAM 0/252kB(lfb 252kB) CPU [16%@204,9%@204,0%@204,0%@204] "
    "EMC_FREQ 0%@204 GR3D_FREQ 0%@76 APE 25 PLL@34C CPU@36.5C PMIC@100C GPU@36C AO@39.5C thermal@36.25C "
    "POM_5V_IN 1022/1022 POM_5V_GPU 0/0 POM_5V_CPU 204/204"
)
TX2_JP4 = (
    "RAM 1022/7860MB (lfb 1398x4MB) SWAP 0/3930MB (cached 0MB) CPU [1%@345,off,off,0%@345,0%@345,1%@345] "
    "EMC_FREQ 0%@408 GR3D_FREQ 0%@114 APE 150 PLL@35.5C MCPU@35.5C PMIC@100C Tboard@31C GPU@33.5C BCPU@35.5C "
    "thermal@34.7C Tdiode@33.25C VDD_SYS_GPU 152/152 VDD_SYS_SOC 457/457 VDD_4V0_WIFI 19/19 VDD_IN 1982/1982 "
    "VDD_SYS_CPU 152/152 VDD_SYS_DDR 190/190"
)
AGX_XAVIER_JP4 = (
    "RAM 721/31927MB (lfb 7291x4MB) SWAP 0/15963MB (cached 0MB) CPU [2%@1190,0%@1190,0%@1190,0%@1190,off,off,off,off] "
    "EMC_FREQ 0%@665 GR3D_FREQ 0%@318 APE 150 MTS fg 0% bg 0% AO@37.5C GPU@37.5C Tdiode@40C PMIC@100C AUX@36C "
    "CPU@37.5C thermal@36.9C Tboard@37C GPU 0/0 CPU 311/311 SOC 932/932 CV 0/0 VDDRQ 621/621 SYS5V 1482/1482"
)
XAVIER_NX_JP4 = (
    "RAM 4412/7772MB (lfb 237x4MB) SWAP 139/3886MB (cached 2MB) CPU [9%@1190,6%@1190,6%@1190,5%@1190,4%@1190,8%@1267] "
    "EMC_FREQ 10%@1600 GR3D_FREQ 62%@306 APE 150 MTS fg 0% bg 0% AO@41.5C GPU@43C PMIC@100C AUX@41.5C CPU@43.5C "
    "thermal@42.55C VDD_IN 4067/4067 VDD_CPU_GPU_CV 738/738 VDD_SOC 1353/1353"
)
XAVIER_NX_JP5 = (
    "RAM 2690/6854MB (lfb 6x1MB) SWAP 479/3427MB (cached 3MB) CPU [3%@1904,7%@1906,1%@1905,0%@1907,off,off] "
    "EMC_FREQ 0%@1600 GR3D_FREQ 0%@[510] VIC_FREQ 601 APE 150 AUX@39C CPU@39.5C AO@37.5C GPU@37.5C PMIC@50C "
    "VDD_IN 5079mW/5079mW VDD_CPU_GPU_CV 696mW/696mW VDD_SOC 1104mW/1104mW"
)
AGX_ORIN_JP5 = (
    "04-24-2023 00:01:24 RAM 1282/62795MB (lfb 15152x4MB) SWAP 0/31398MB (cached 0MB) CPU [0%@729,0%@729] "
    "EMC_FREQ 0%@2133 GR3D_FREQ 0%@0 GR3D2_FREQ 0%@0 VIC_FREQ 729 APE 174 CV0@-256C CPU@42.593C Tboard@32C tj@42.593C "
    "VDD_GPU_SOC 2399mW/2399mW VDD_CPU_CV 400mW/400mW VIN_SYS_5V0 4032mW/4032mW NC 0mW/0mW VDDQ_VDD2_1V8AO 301mW/301mW "
    "NC 0mW/0mW"
)
ORIN_NANO_JP6 = (
    "04-27-2026 14:59:41 RAM 775/7620MB (lfb 3x4MB) SWAP 0/3810MB (cached 0MB) CPU [1%@729,0%@729,0%@729] GR3D_FREQ 0% "
    "cpu@48.468C soc2@47.531C soc0@48.062C gpu@48.562C tj@49.156C soc1@49.156C "
    "VDD_IN 4761mW/4778mW VDD_CPU_GPU_CV 515mW/501mW VDD_SOC 1428mW/1428mW"
)


@pytest.mark.parametrize(
    ("line", "rails"),
    [
        (NANO_JP4, {"POM_5V_IN": 1.022, "POM_5V_GPU": 0.0, "POM_5V_CPU": 0.204}),
        (
            TX2_JP4,
            {
                "VDD_SYS_GPU": 0.152, "VDD_SYS_SOC": 0.457, "VDD_4V0_WIFI": 0.019, "VDD_IN": 1.982,
                "VDD_SYS_CPU": 0.152, "VDD_SYS_DDR": 0.190,
            },
        ),
        (AGX_XAVIER_JP4, {"GPU": 0.0, "CPU": 0.311, "SOC": 0.932, "CV": 0.0, "VDDRQ": 0.621, "SYS5V": 1.482}),
        (XAVIER_NX_JP4, {"VDD_IN": 4.067, "VDD_CPU_GPU_CV": 0.738, "VDD_SOC": 1.353}),
        (XAVIER_NX_JP5, {"VDD_IN": 5.079, "VDD_CPU_GPU_CV": 0.696, "VDD_SOC": 1.104}),
        (AGX_ORIN_JP5, {"VDD_GPU_SOC": 2.399, "VDD_CPU_CV": 0.4, "VIN_SYS_5V0": 4.032, "VDDQ_VDD2_1V8AO": 0.301}),
        (ORIN_NANO_JP6, {"VDD_IN": 4.761, "VDD_CPU_GPU_CV": 0.515, "VDD_SOC": 1.428}),
        ("RAM 534/3964MB SWAP 5/1982MB IRAM 0/252kB(lfb 252kB) CPU@36.5C", {}),
        ("", {}),
    ],
)  # fmt: skip
def test_the_rails_of_every_generation(line: str, rails: dict[str, float]) -> None:
    assert parse_rails(line) == pytest.approx(rails)


def config(**settings: object) -> TegrastatsConfig:
    return TegrastatsConfig.model_validate({"kind": "tegrastats", **settings})


def _line(milliwatt: int) -> str:
    return ORIN_NANO_JP6.replace("4761mW/4778mW", f"{milliwatt}mW/4000mW") + "\n"


class Writer:
    """Appends a line to a file at each of some times."""

    def __init__(self, path: Path, times_s: list[float]) -> None:
        self._path = path
        self._times_s = times_s
        self._written = 0
        path.write_text(_line(1000))

    def advance(self, time_s: float) -> None:
        while self._written < len(self._times_s) and self._times_s[self._written] <= time_s:
            self._written += 1
            with self._path.open("a") as file:
                file.write(_line(1000 + self._written))


def _stream_of(path: Path, times_s: list[float], until_s: float) -> tuple[npt.NDArray[np.float64], PolledReport]:
    """Milliwatt of each sample, and how the stream went."""
    writer = Writer(path, times_s)
    clock = VirtualClock(until_s, [writer.advance])
    with tegrastats_meter(config(file=str(path)), 5.0, clock) as meter:
        block = stream(meter, clock)
        return np.round(block.current_a.astype(np.float64) * 5e3, 2), meter.report


def test_lines_of_a_file_are_samples(tmp_path: Path) -> None:
    shown, report = _stream_of(tmp_path / "log", [0.05 + 0.1 * k for k in range(50)], 5.0)
    assert shown.tolist() == [1001.0 + k for k in range(50)]
    assert report.repeats == report.failed == 0


def test_lines_that_come_more_slowly_repeat_and_are_counted(tmp_path: Path) -> None:
    """104 ms instead of 100: in five seconds two slots have no line of their own, and none is lost for that."""
    shown, report = _stream_of(tmp_path / "log", [0.05 + 0.104 * k for k in range(60)], 5.0)
    assert np.isfinite(shown).all()
    assert report.repeats == int(np.count_nonzero(np.diff(shown) == 0)) == 2


def test_lines_that_stop_are_lost_samples_and_then_a_failure(tmp_path: Path) -> None:
    gap = [0.05 + 0.1 * k for k in range(80) if not 20 <= k < 27]
    shown, report = _stream_of(tmp_path / "log", gap, 6.0)
    assert np.flatnonzero(np.isnan(shown)).tolist() == [21, 22, 23, 24, 25, 26]
    assert report.failed == 6
    with pytest.raises(MeterError, match=r"tegrastats VDD_IN: no reading for 2\.0 s: no new line"):
        _stream_of(tmp_path / "other", [0.05 + 0.1 * k for k in range(20)], 6.0)


def test_rails_are_added_up_and_missing_ones_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(AGX_ORIN_JP5 + "\n")
    clock = VirtualClock(0.1)
    rails = ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
    with tegrastats_meter(config(file=str(path), rails=rails), 5.0, clock) as meter:
        block = stream(meter, clock)
        assert meter.info.identity == "tegrastats VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
        assert not meter.info.measures_current
        assert meter.info.time_uncertainty_s == pytest.approx(0.2)
    assert block.current_a * 5 == pytest.approx(2.399 + 0.4 + 4.032)
    with pytest.raises(MeterError, match="no rail VDD_IN; its line has: VDD_GPU_SOC, VDD_CPU_CV") as caught:
        tegrastats_meter(config(file=str(path)), 5.0).open()
    assert "the sum of all of them" in caught.value.hint


def test_a_line_without_the_rail_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(_line(1000))

    def damage(time_s: float) -> None:
        with path.open("a") as file:
            file.write("garbage\n" if 0.25 < time_s < 0.35 else _line(2000))

    clock = VirtualClock(0.6, [damage])
    with tegrastats_meter(config(file=str(path)), 5.0, clock) as meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [2]


def test_no_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(MeterError, match="No such file"):
        tegrastats_meter(config(file=str(tmp_path / "none")), 5.0).open()
    (tmp_path / "empty").touch()
    with pytest.raises(MeterError, match="holds no line yet"):
        tegrastats_meter(config(file=str(tmp_path / "empty")), 5.0).open()


def _program(folder: Path, script: str) -> str:
    path = folder / "tegrastats"
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return str(path)


def test_the_program_is_run_with_the_period_and_ended(tmp_path: Path) -> None:
    """A stand-in that writes its arguments, one line, and then waits."""
    program = _program(tmp_path, f"echo \"$@\" > {tmp_path}/args\necho '{NANO_JP4}'\nexec sleep 60\n")
    meter = make_meter(config(program=program, rails=("POM_5V_IN",), period="250 ms"), 5.0)
    with meter:
        meter.start()
        block = meter.read(5.0)
        meter.stop()
    assert block.current_a[0] * 5 == pytest.approx(1.022)
    assert (tmp_path / "args").read_text() == "--interval 250\n"


def test_a_program_that_ends_is_a_failure(tmp_path: Path) -> None:
    lines = ProgramLines(_program(tmp_path, f"echo '{NANO_JP4}'\nprintf 'POM_5V_IN 1/1'\n"), 0.1)
    assert lines.first().strip() == NANO_JP4
    with pytest.raises(MeterError, match="ended with status 0"):
        _drain_to_the_end(lines)
    lines.close()
    with pytest.raises(MeterError, match="ended with status 3"):
        tegrastats_meter(config(program=_program(tmp_path, "exit 3\n")), 5.0).open()


def _drain_to_the_end(lines: ProgramLines) -> None:
    while True:
        assert lines.drain() == []  # half a line is none


def test_no_program() -> None:
    with pytest.raises(ToolMissing, match="No such file") as caught:
        tegrastats_meter(config(program="/nowhere/tegrastats"), 5.0).open()
    assert "Jetson" in caught.value.hint
