"""Trees of files that keep up with a load as those of the kernel do: hwmon with current monitors, and powercap (RAPL).

What a chip shows follows from its data sheet's figures in :data:`lab.power.hwmon.CHIPS`: every update interval it has
the mean shunt and bus voltage of the interval, in whole steps of its converter, clipped to its range; the kernel's
driver makes whole milliampere and millivolt of them, cut off. The accumulator of an INA228 adds up the products and
begins at 0 again after 40 bits (fewer here, to see it). A RAPL counter moves every millisecond in steps of its energy
unit and begins again at its range.

A tree is advanced to a time (:meth:`HwmonTree.advance`), by a test's own clock or by :func:`live` in real time. Files
are replaced whole, so a reader never sees half of one. What files cannot do: a read that blocks, or fails with EIO or
EAGAIN. A file that links to itself (ELOOP) and an empty one stand for those.

By hand::

    python -m lab.emulators.hwmon --root /tmp/hwmon --chip ina226 --shunt 0.1 --current 0.02
"""

from __future__ import annotations

import argparse
import contextlib
import math
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lab.emulators.load import Load, ScriptedLoad, Segment
from lab.power.hwmon import CHIPS, ENERGY_BITS
from lab.power.sysfs import EMULATED

RAPL_UNIT_UJ = 1e6 / (1 << 14)
"""Energy unit of most Intel processors: 61 µJ."""
RAPL_UPDATE_S = 1e-3
_NEVER = math.inf
_ROUNDING_S = 1e-9


class Tree(Protocol):
    """Something that keeps files up to date."""

    def advance(self, time_s: float) -> None:
        """Show what it shows at a time of the load."""


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and from which time of the load on, seconds.

    Attributes:
        stuck_s: values stay what they are.
        gone_s: the driver is unbound: its folder is empty.
        busy_s: files are empty between these times.
        broken_s: files cannot be read between these times.
        reversed: the shunt is the other way round.
        gain: error of the shunt voltage, relative.
        offset_v: error of the shunt voltage, volt.
    """

    stuck_s: float = _NEVER
    gone_s: float = _NEVER
    busy_s: tuple[float, float] = (_NEVER, _NEVER)
    broken_s: tuple[float, float] = (_NEVER, _NEVER)
    reversed: bool = False
    gain: float = 0.0
    offset_v: float = 0.0


class _Channel:
    """What a chip's converter makes of a load."""

    def __init__(self, name: str, load: Load, shunt_ohm: float, faults: Faults, energy_bits: int) -> None:
        self._chip = CHIPS[name]
        self._load = load
        self._shunt_ohm = shunt_ohm
        self._faults = faults
        self._wrap = 1 << energy_bits
        self._energy_lsb = 0.0
        self._voltage_v = float(load.samples(0, 1, 1000).voltage_v[0])
        # The chip ran before: its registers are not empty at time 0.
        self.convert(0.0, 1e-6)
        self._energy_lsb = 0.0

    def convert(self, begin_s: float, end_s: float) -> None:
        """One update."""
        chip, faults = self._chip, self._faults
        truth = self._load.truth(begin_s, end_s)
        if truth.charge_c > 0:
            self._voltage_v = truth.energy_j / truth.charge_c
        shunt_v = truth.mean_current_a * self._shunt_ohm * (-1 if faults.reversed else 1)
        shunt_v = shunt_v * (1 + faults.gain) + faults.offset_v
        most = round(chip.full_scale_v / chip.lsb_v) - 1
        self._shunt_v = max(-most, min(most, round(shunt_v / chip.lsb_v))) * chip.lsb_v
        self._bus_v = round(self._voltage_v / chip.bus_lsb_v) * chip.bus_lsb_v
        if chip.energy_lsb:
            energy_j = abs(self._shunt_v) / self._shunt_ohm * self._bus_v * (end_s - begin_s)
            self._energy_lsb += energy_j / (chip.energy_lsb / self._shunt_ohm)

    def files(self, number: int) -> dict[str, int]:
        """File to number, as the driver shows them."""
        current_a = self._shunt_v / self._shunt_ohm
        files = {
            f"curr{number}_input": int(current_a * 1e3 + math.copysign(1e-6, current_a)),
            f"in{number}_input": int(self._bus_v * 1e3 + 1e-6),
        }
        if self._chip.channels == 1:
            files["power1_input"] = int(abs(current_a) * self._bus_v * 1e6)
        if self._chip.energy_lsb:
            count = int(self._energy_lsb) % self._wrap
            files["energy1_input"] = int(count * self._chip.energy_lsb / self._shunt_ohm * 1e6)
        return files


class HwmonTree:
    """A chip behind hwmon.

    Args:
        root: what ``/sys/class/hwmon`` is elsewhere; made where it is not there.
        chip: its name, a key of :data:`lab.power.hwmon.CHIPS`.
        loads: one for each channel, from 1 on.
        shunt_ohm: of every channel.
        update_s: its update interval; None: that of its driver's configuration.
        device: bus and address.
        labels: of the channels, for chips that have some.
        number: N of hwmonN.
        faults: what goes wrong.
        energy_bits: width of its accumulator.
    """

    def __init__(
        self,
        root: Path,
        chip: str,
        loads: Sequence[Load],
        *,
        shunt_ohm: float = 0.1,
        update_s: float | None = None,
        device: str = "1-0040",
        labels: Sequence[str] = (),
        number: int = 3,
        faults: Faults | None = None,
        energy_bits: int = ENERGY_BITS,
    ) -> None:
        self._faults = faults or Faults()
        about = CHIPS[chip]
        shunt_ohm = about.shunt_ohm or shunt_ohm
        self.update_s = about.update_s if update_s is None else update_s
        self.folder = root / f"hwmon{number}"
        self._channels = [_Channel(chip, load, shunt_ohm, self._faults, energy_bits) for load in loads]
        self._updates = 0
        self._shown: dict[str, str | None] = {}
        self.folder.mkdir(parents=True, exist_ok=True)
        bus = root.parent / "devices" / device
        bus.mkdir(parents=True, exist_ok=True)
        (self.folder / "device").symlink_to(bus)
        _replace(self.folder / "name", chip)
        _replace(self.folder / EMULATED, "1")
        if update_s is not None:
            _replace(self.folder / "update_interval", str(round(update_s * 1e3)))
        for n, label in enumerate(labels, start=1):
            _replace(self.folder / f"in{n}_label", label)
        if not about.shunt_ohm:
            for n in range(1, len(loads) + 1):
                name = f"shunt{n}_resistor" if about.channels > 1 else "shunt_resistor"
                _replace(self.folder / name, str(round(shunt_ohm * 1e6)))
        self._show(0.0)

    def advance(self, time_s: float) -> None:
        """Convert what came up to a time, and show it."""
        faults = self._faults
        if time_s >= faults.gone_s:
            if self.folder.exists():
                shutil.rmtree(self.folder)
            return
        updates = math.floor(time_s / self.update_s + _ROUNDING_S)
        for update in range(self._updates, updates):
            if (update + 1) * self.update_s < faults.stuck_s:
                for channel in self._channels:
                    channel.convert(update * self.update_s, (update + 1) * self.update_s)
        self._updates = max(updates, self._updates)
        self._show(time_s)

    def _show(self, time_s: float) -> None:
        broken = self._faults.broken_s[0] <= time_s < self._faults.broken_s[1]
        busy = self._faults.busy_s[0] <= time_s < self._faults.busy_s[1]
        for n, channel in enumerate(self._channels, start=1):
            for name, value in channel.files(n).items():
                text = None if broken else "" if busy else str(value)
                if name in self._shown and self._shown[name] == text:
                    continue
                self._shown[name] = text
                if text is not None:
                    _replace(self.folder / name, text)
                else:
                    (self.folder / name).unlink()
                    (self.folder / name).symlink_to(name)


class PowercapTree:
    """RAPL domains behind powercap.

    Args:
        root: what ``/sys/class/powercap`` is elsewhere; made where it is not there.
        domains: zone (``intel-rapl:0``, ``intel-rapl:0:0``) to its name and load.
        range_uj: where the counters begin again.
        first_uj: where they stand at time 0.
        gone_s: when the module is removed, seconds.
        stuck_s: when the counters stop, seconds.
    """

    def __init__(
        self,
        root: Path,
        domains: Mapping[str, tuple[str, Load]],
        *,
        range_uj: int = 262_143_328_850,
        first_uj: int = 0,
        gone_s: float = _NEVER,
        stuck_s: float = _NEVER,
    ) -> None:
        self.update_s = RAPL_UPDATE_S
        self._root = root
        self._range_uj = range_uj
        self._first_uj = first_uj
        self._gone_s = gone_s
        self._stuck_s = stuck_s
        self._loads = {zone: load for zone, (_, load) in domains.items()}
        (root / "intel-rapl").mkdir(parents=True)
        for zone, (name, _) in domains.items():
            (root / zone).mkdir()
            _replace(root / zone / "name", name)
            _replace(root / zone / EMULATED, "1")
            _replace(root / zone / "max_energy_range_uj", str(range_uj))
        self.advance(0.0)

    def advance(self, time_s: float) -> None:
        """Show the counters at a time."""
        if time_s >= self._gone_s:
            for zone in self._loads:
                shutil.rmtree(self._root / zone, ignore_errors=True)
            return
        moved_s = math.floor(min(time_s, self._stuck_s) / RAPL_UPDATE_S + _ROUNDING_S) * RAPL_UPDATE_S
        for zone, load in self._loads.items():
            energy_uj = load.truth(0.0, moved_s).energy_j * 1e6 if moved_s else 0.0
            count_uj = int(math.floor(energy_uj / RAPL_UNIT_UJ) * RAPL_UNIT_UJ)
            _replace(self._root / zone / "energy_uj", str((self._first_uj + count_uj) % self._range_uj))


@contextmanager
def live(tree: Tree, step_s: float) -> Iterator[None]:
    """Keep a tree up to date in real time, from 0 on, in a thread."""
    stop = threading.Event()
    begin_s = time.monotonic()

    def work() -> None:
        while not stop.wait(step_s):
            tree.advance(time.monotonic() - begin_s)

    thread = threading.Thread(target=work, name="lab-hwmon-tree", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _replace(path: Path, text: str) -> None:
    """Another file in its place, so that nobody reads half of one."""
    fresh = path.with_name(f".{path.name}")
    fresh.write_text(f"{text}\n" if text else "")
    fresh.rename(path)


def main() -> None:
    """Keep a tree up to date until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.hwmon", description="A tree like the kernel's hwmon")
    parser.add_argument("--root", type=Path, required=True, help="what /sys/class/hwmon is elsewhere")
    parser.add_argument("--chip", choices=sorted(CHIPS), default="ina226")
    parser.add_argument("--shunt", type=float, default=0.1, help="ohm")
    parser.add_argument("--current", type=float, default=0.05, help="steady current, A")
    parser.add_argument("--voltage", type=float, default=3.3, help="supply voltage, V")
    parser.add_argument("--script", type=Path, help="play this file (ScriptedLoad.write) instead")
    options = parser.parse_args()
    steady = ScriptedLoad([Segment(1.0, options.current, voltage_v=options.voltage)])
    load = steady if options.script is None else ScriptedLoad.read(options.script)
    tree = HwmonTree(options.root, options.chip, [load], shunt_ohm=options.shunt)
    with live(tree, tree.update_s / 2), contextlib.suppress(KeyboardInterrupt):
        print(f"ready {options.root}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
