"""RAPL counters behind powercap, on trees of files that follow loads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.virtual_clock import VirtualClock, stream

from lab.emulators.hwmon import RAPL_UNIT_UJ, PowercapTree, live
from lab.emulators.load import ScriptedLoad, Segment
from lab.errors import MeterError
from lab.meter_config import RaplConfig
from lab.power.base import SampleBlock
from lab.power.polled import PolledMeter
from lab.power.rapl import RELATIVE, RELATIVE_DRAM, find_domains, rapl_meter
from lab.power.registry import make_meter
from lab.power.sysfs import LocalFiles

_V = 12.0
_PACKAGE = ScriptedLoad([Segment(*times, voltage_v=_V) for times in ((1.0, 2.0), (1.5, 15.0), (9.0, 1.5))])
_DRAM = ScriptedLoad([Segment(9.0, 0.3, voltage_v=_V)])
_DOMAINS = {
    "intel-rapl:0": ("package-0", _PACKAGE),
    "intel-rapl:0:0": ("core", _PACKAGE),
    "intel-rapl:0:1": ("dram", _DRAM),
    "intel-rapl:1": ("psys", _PACKAGE),
}
_ONE = {"intel-rapl:0": _DOMAINS["intel-rapl:0"]}


def config(root: Path, **settings: object) -> RaplConfig:
    return RaplConfig.model_validate({"kind": "rapl", "root": str(root), "period": 0.01, **settings})


def measured(tree: PowercapTree, root: Path, until_s: float, **settings: object) -> tuple[SampleBlock, PolledMeter]:
    clock = VirtualClock(until_s, [tree.advance])
    meter = rapl_meter(config(root, **settings), _V, clock=clock)
    meter.open()
    return stream(meter, clock), meter


def energy_j(block: SampleBlock, rate_hz: float, begin: int = 0, end: int | None = None) -> float:
    return float(np.nansum(block.current_a[begin:end].astype(np.float64)) * _V / rate_hz)


def test_energy_against_the_closed_form(tmp_path: Path) -> None:
    """A counter has all of it, to its own step at either end of a window."""
    block, meter = measured(PowercapTree(tmp_path / "powercap", _ONE), tmp_path / "powercap", 4.0)
    assert (block.current_a.size, block.lost) == (400, 0)
    for begin, end in ((0, 400), (50, 150), (100, 250), (333, 334)):
        truth = _PACKAGE.truth(begin / 100, end / 100)
        assert energy_j(block, 100.0, begin, end) == pytest.approx(truth.energy_j, abs=2.1e-6 * RAPL_UNIT_UJ, rel=1e-6)
    info = meter.info
    assert block.voltage_v is None
    assert not info.measures_current
    assert not info.measures_voltage
    assert info.relative_uncertainty == RELATIVE
    assert (info.alignment, info.time_uncertainty_s) == ("host-time", pytest.approx(0.011))
    assert info.emulated
    assert info.identity == "RAPL package-0; of all that runs on the processor"


@pytest.mark.parametrize("first_uj", [0, 9_000_000, 9_999_999])
def test_wraps_are_followed(tmp_path: Path, first_uj: int) -> None:
    """A range of 10 J wraps every 60 ms at 180 W; the energy has nothing of it."""
    root = tmp_path / "powercap"
    tree = PowercapTree(root, _ONE, range_uj=10_000_000, first_uj=first_uj)
    block, meter = measured(tree, root, 4.0)
    truth_j = _PACKAGE.truth(0.0, 4.0).energy_j
    assert truth_j > 25 * 10
    assert energy_j(block, 100.0) == pytest.approx(truth_j, abs=1e-3)
    assert meter.report.jumps == 0


def test_missed_slots_are_lost_and_the_rest_is_right(tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    tree = PowercapTree(root, _ONE)
    clock = VirtualClock(4.0, [tree.advance], late_s={120: 0.055})
    with rapl_meter(config(root), _V, clock=clock) as meter:
        block = stream(meter, clock)
    assert np.flatnonzero(np.isnan(block.current_a)).tolist() == [120, 121, 122, 123, 124, 125]
    assert (block.lost, meter.report.missed) == (6, 5)
    whole_j = energy_j(block, 100.0) + 6 * 15.0 * _V / 100
    # The late reading was made 5 ms into the slot after its own; the counter's step comes on top.
    allowed_j = 15.0 * _V * 0.005 + 2.1e-6 * RAPL_UNIT_UJ
    assert whole_j == pytest.approx(_PACKAGE.truth(0.0, 4.0).energy_j, abs=allowed_j)


def test_domains_have_their_package_s_name(tmp_path: Path) -> None:
    """Zones of the memory-mapped interface say the same again and are left out."""
    root = tmp_path / "powercap"
    second = {"intel-rapl:2": ("package-1", _PACKAGE), "intel-rapl:2:0": ("dram", _DRAM)}
    PowercapTree(root, {**_DOMAINS, **second})
    (root / "intel-rapl-mmio:0").mkdir()
    (root / "intel-rapl-mmio:0" / "name").write_text("package-0\n")
    assert {name: Path(folder).name for name, folder in find_domains(LocalFiles(), str(root)).items()} == {
        "package-0": "intel-rapl:0",
        "package-0/core": "intel-rapl:0:0",
        "package-0/dram": "intel-rapl:0:1",
        "psys": "intel-rapl:1",
        "package-1": "intel-rapl:2",
        "package-1/dram": "intel-rapl:2:0",
    }
    for domain, identity in (("core", "RAPL package-0/core"), ("package-1/dram", "RAPL package-1/dram")):
        info = rapl_meter(config(root, domain=domain), _V).open()
        assert info.identity.startswith(identity)
        assert info.relative_uncertainty == (RELATIVE_DRAM if "dram" in domain else RELATIVE)
    with pytest.raises(MeterError, match="several domains are named 'dram'; there are: package-0, package-0/core"):
        rapl_meter(config(root, domain="dram"), _V).open()
    with pytest.raises(MeterError, match="no domain is named 'uncore'"):
        rapl_meter(config(root, domain="uncore"), _V).open()


def test_no_powercap(tmp_path: Path) -> None:
    assert find_domains(LocalFiles(), str(tmp_path / "none")) == {}
    with pytest.raises(MeterError, match="no RAPL domain on this computer") as caught:
        rapl_meter(config(tmp_path / "none"), _V).open()
    assert "intel_rapl_msr" in caught.value.hint


class Forbidden(LocalFiles):
    """As for a user who is not root: powercap's counters have mode 0400."""

    def read_text(self, path: str) -> str:
        if path.endswith("energy_uj"):
            raise PermissionError(13, "Permission denied", path)
        return super().read_text(path)


def test_a_user_who_is_not_root_is_told_the_way_out(tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    PowercapTree(root, _DOMAINS)
    with pytest.raises(MeterError, match=r"energy_uj: permission denied: .*CVE-2020-8694") as caught:
        rapl_meter(config(root), _V, files=Forbidden()).open()
    assert f"sudo chmod a+r {root}/intel-rapl:0/energy_uj" in caught.value.hint


def test_a_module_that_is_removed_and_a_counter_that_stops(tmp_path: Path) -> None:
    root = tmp_path / "gone" / "powercap"
    with pytest.raises(MeterError, match=r"energy_uj: gone"):
        measured(PowercapTree(root, _ONE, gone_s=1.0), root, 3.0)
    root = tmp_path / "stuck" / "powercap"
    with pytest.raises(MeterError, match=r"has not moved for 2\.0 s"):
        measured(PowercapTree(root, _ONE, stuck_s=1.0), root, 5.0)


def test_a_range_that_is_none(tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    PowercapTree(root, _DOMAINS)
    (root / "intel-rapl:0" / "max_energy_range_uj").write_text("0\n")
    with pytest.raises(MeterError, match="no range of the counter"):
        rapl_meter(config(root), _V).open()


def test_the_registry_makes_it_and_a_live_tree_is_read(tmp_path: Path) -> None:
    root = tmp_path / "powercap"
    tree = PowercapTree(root, {"intel-rapl:0": ("package-0", _DRAM)})
    with live(tree, 0.002), make_meter(config(root, period="50 ms"), _V) as meter:
        meter.start()
        seen = 0
        while seen < 2:
            seen += int(np.isfinite(meter.read(5.0).current_a).sum())
        meter.stop()


@pytest.mark.skipif(
    not find_domains(LocalFiles(), "/sys/class/powercap"), reason="this computer has no powercap (RAPL) to read"
)
def test_this_computer_s_own_counter() -> None:
    """Root's, or made readable; a processor that runs this test takes something."""
    try:
        meter = rapl_meter(RaplConfig(kind="rapl"), _V)
        meter.open()
    except MeterError as error:
        assert "permission denied" in error.message or "no domain" in error.message  # noqa: PT017
        return
    with meter:
        meter.start()
        power_w = np.empty(0)
        while power_w.size < 20:
            power_w = np.append(power_w, meter.read(5.0).current_a * _V)
        meter.stop()
    assert 0.0 < np.nanmean(power_w) < 2000.0
