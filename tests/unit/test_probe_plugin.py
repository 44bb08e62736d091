"""The plug-in as pyOCD finds it."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from pyocd.probe.aggregator import PROBE_CLASSES
from pyocd.probe.cmsis_dap_probe import CMSISDAPProbe
from pyocd.target import TARGET

from lab.emulators.probe.flash_stm32f4 import Stm32F4Flash
from lab.emulators.probe.interface import LabProbe
from lab.emulators.probe.plugin import LabProbePlugin
from lab.emulators.probe.targets import LAYOUTS, STM32_TARGETS
from lab.inventory import load_board
from lab.paths import config_dir


def test_pyocd_loads_it_as_a_cmsis_dap_probe() -> None:
    assert PROBE_CLASSES["lab"] is LabProbe
    assert issubclass(LabProbe, CMSISDAPProbe)
    # All that talks to the probe is pyOCD's own.
    own = {name for name in vars(LabProbe) if not name.startswith("__")}
    assert own == {"get_all_connected_probes", "get_probe_with_id"}


def test_without_boards_there_is_nothing(private_lab: Path) -> None:
    assert LabProbe.get_all_connected_probes() == []
    assert LabProbe.get_probe_with_id("one") is None


def test_where_files_cannot_be_locked_it_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert LabProbePlugin().should_load()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    assert not LabProbePlugin().should_load()


def test_pyocd_starts_where_files_cannot_be_locked() -> None:
    code = "import sys; sys.modules['fcntl'] = None; import pyocd.probe.aggregator as all; print(*all.PROBE_CLASSES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cmsisdap" in done.stdout.split()
    assert "lab" not in done.stdout.split()


def test_targets_that_boards_name_are_known() -> None:
    ours = {layout.name for layout in LAYOUTS} | {name for name, _ in STM32_TARGETS}
    assert ours <= set(TARGET)
    kinds = [load_board(path) for path in (config_dir() / "boards").glob("*.yaml")]
    named = {kind.pyocd_target for kind in kinds if kind.pyocd_target and kind.pyocd_target.startswith("lab_")}
    assert named <= ours
    assert {"lab_mps2_an386", "lab_mps3_an547", "lab_netduinoplus2"} <= named


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_the_flash_algorithm_fits_into_the_first_ram_without_overlaps(layout: object) -> None:
    flash, ram = TARGET[layout.name].MEMORY_MAP.regions[:2]  # type: ignore[attr-defined]
    algorithm = flash.algo
    code_end = algorithm["load_address"] + 4 * len(algorithm["instructions"])
    buffers = [(start, start + flash.page_size) for start in algorithm["page_buffers"]]
    used = sorted([
        (algorithm["load_address"], code_end),
        (algorithm["end_stack"], algorithm["begin_stack"]),
        # pyOCD's CRC analyser takes 0x600 bytes.
        (algorithm["analyzer_address"], algorithm["analyzer_address"] + 0x600),
        *buffers,
    ])  # fmt: skip
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(used))
    assert used[0][0] >= ram.start
    assert used[-1][1] <= ram.end + 1
    assert all(code_end > algorithm[name] & ~1 >= algorithm["load_address"] for name in algorithm if name[:3] == "pc_")


def test_stm32_flash_regions_follow_one_another_over_the_whole_flash() -> None:
    for name, ram_bytes in STM32_TARGETS:
        assert Stm32F4Flash.is_in(name)
        *flash, ram = TARGET[name].MEMORY_MAP.regions
        assert [region.start for region in flash] == [0x08000000, 0x08010000, 0x08020000]
        assert [region.sector_size >> 10 for region in flash] == [16, 64, 128]
        assert flash[-1].end == 0x080FFFFF
        assert ram.length == ram_bytes
