"""The command line end to end on an emulated microcontroller, as a user calls it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.sandbox import environment
from helpers.toolchain import needs_qemu

from lab.paths import cache_dir
from measurements.store import Store

pytestmark = [needs_qemu, pytest.mark.timeout(900)]  # the first to need the network trains it, others wait for it


def _lab(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``lab …`` with a store and reports of its own; the user's cache, so that the network is trained once."""
    data = {"LAB_DATA": os.environ["LAB_DATA"]} if "LAB_DATA" in os.environ else {}
    private = environment(folder, cache_dir(), **data)
    command = [sys.executable, "-m", "lab", *arguments]
    return subprocess.run(command, cwd=folder, env=private, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder, and what a run of five samples in it said."""
    folder = tmp_path_factory.mktemp("cli")
    done = _lab(folder, "run", "spoken-digits", "--device", "m4f", "--samples", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_run_measures_latency_memory_and_energy(measured: tuple[Path, str]) -> None:
    folder, output = measured
    with Store(folder / "store") as store:
        (run,) = store.runs()
        trace = store.trace(run.run_id)
    assert run.status == "passed"
    figures = {(record.region, record.metric): record for record in run.records}
    assert figures["run", "bit_exact"].median == 1.0
    assert figures["inference", "latency"].n == 5
    assert figures["inference", "energy"].n == 5
    assert figures["run", "peak_ram"].median < 256 * 1024
    assert ("run", "accuracy") not in figures, "five samples say nothing of the accuracy"
    assert trace is not None
    for region, metric in figures:
        assert re.search(rf"^ +{re.escape(region)} +{re.escape(metric)} ", output, re.MULTILINE)
    assert re.search(r"^  inference +energy +38\d\.?\d* µJ .*class ±\d+\.?\d* µJ  n=5 modelled$", output, re.MULTILINE)
    assert re.search(r"^  energy: edges ±1 sample of 10 µs.* waited awake", output, re.MULTILINE)


def test_the_energy_of_a_run_agrees_with_power_and_time(measured: tuple[Path, str]) -> None:
    """The pass is long against the 20 µs of settling: energy is V·I·t of the active core within 0.5 % (issue 2, 6)."""
    from helpers.toolchain import entry

    board, voltage_v = entry("m4f").board, entry("m4f").meter_voltage_v
    assert board.energy_model is not None
    with Store(measured[0] / "store") as store:
        (run,) = store.runs()
    figures = {(record.region, record.metric): record for record in run.records}
    expected_j = voltage_v * board.energy_model.active_current_a * figures["inference", "latency"].median
    assert figures["inference", "energy"].median == pytest.approx(expected_j, rel=0.005)


def test_the_run_ends_with_a_report_of_its_own(measured: tuple[Path, str]) -> None:
    folder, output = measured
    page = Path(output.splitlines()[-1].removeprefix("report: "))
    assert page.is_relative_to(folder / "reports")
    text = page.read_text()
    assert "m4f" in text
    assert "spoken-digits" in text
    listed = _lab(folder, "report", "--list").stdout
    assert page.parent.name in listed


def test_console_shows_the_hello_of_the_firmware(tmp_path: Path) -> None:
    done = _lab(tmp_path, "console", "m4f", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    first, *frames = done.stdout.splitlines()
    assert first.startswith("# m4f on socket://127.0.0.1:")
    messages = [json.loads(line) for line in frames if line.startswith("{")]
    (hello,) = [message for message in messages if "mps2-an386" in message.values()]
    assert "spoken_digits" in str(hello).replace("-", "_")
    assert not (tmp_path / "store").exists()
