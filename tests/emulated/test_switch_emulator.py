"""The supply of an emulated board, and the last rung of a device's ladder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toolchain import built, entry, machine_of, needs_host_compiler, needs_qemu

from lab.artifact import Artifact
from lab.devices.base import Identity, Powered
from lab.devices.connect import connected
from lab.devices.emulated_mcu import EmulatedTarget
from lab.devices.mcu import Mcu
from lab.devices.powered import emulator_switch
from lab.emulators.load import ScriptedLoad, Segment
from lab.emulators.ppk2 import EmulatedPpk2
from lab.emulators.qemu import Qemu
from lab.errors import ConfigError, EmulatorError, ProbeError, ProtocolError
from lab.paths import cache_dir
from lab.power.ppk2 import Ppk2
from lab.power.switches.base import PowerSwitch
from lab.power.switches.emulator import EmulatorOutlet
from lab.power.switches.meter_output import MeterOutlet
from lab.transports.base import ByteStream

pytestmark = [needs_qemu, needs_host_compiler]
BOARD = "mps2-an386"


def test_a_board_of_the_bench_loses_its_supply_and_gets_it_back() -> None:
    found = entry("m4f")
    with connected(replace(found, config=found.config.model_copy(update={"meter": None})), cache_dir()) as device:
        assert isinstance(device, Powered)
        with pytest.raises(EmulatorError, match="nothing is deployed"):
            device.power("off")
        first = device.deploy(built(BOARD))
        device.power("off")
        with pytest.raises(ProtocolError, match="nothing is deployed"):
            device.reset("soft")
        device.power("cycle")
        assert device.deploy(built(BOARD)).build_id == first.build_id


def test_the_emulators_process_is_the_witness() -> None:
    target = EmulatedTarget(lambda firmware: Qemu(machine_of(BOARD), firmware))
    outlet = EmulatorOutlet(lambda: target.emulator)
    switch = emulator_switch(lambda: target.emulator)
    assert not outlet.powered()
    target.load(built(BOARD))
    try:
        assert switch.state() == (None, True)
        switch.off()
        assert switch.state() == (None, False)
        switch.on()
        assert switch.state() == (None, True)
    finally:
        target.close()
    assert not outlet.powered()


def test_a_ppk2_switches_its_output_and_measures_that_it_did(tmp_path: Path) -> None:
    with EmulatedPpk2(tmp_path, 1_000_000, ScriptedLoad([Segment(1.0, 5e-3)])) as peer:
        outlet = MeterOutlet(lambda: Ppk2(peer.port, voltage_v=3.3, emulated=True), 0.5e-3)
        switch = PowerSwitch(outlet, outlet, off_s=0.0)
        switch.cycle()
        assert switch.state() == (None, True)
        # The meter is closed in between, and opening it switches it on: what is off is seen while it is held.
        outlet.set(False)
        assert not outlet.powered()
        outlet.close()


class Wedged(EmulatedTarget):
    """A board whose probe does not let an image in until it lost its supply."""

    wedged = False

    def load(self, artifact: Artifact) -> ByteStream:
        if self.wedged:
            raise ProbeError("the probe does not answer")
        return super().load(artifact)

    def reset(self) -> bool:
        return False


class Lamp:
    """A switch that frees the board, and its own witness."""

    title = "lamp"

    def __init__(self, target: Wedged) -> None:
        self._target = target
        self.on = True

    def set(self, on: bool) -> None:
        self.on = on
        self._target.wedged = self._target.wedged and on

    def state(self) -> bool | None:
        return self.on

    def powered(self) -> bool:
        return self.on

    def close(self) -> None:
        pass


def test_the_last_rung_is_a_power_cycle() -> None:
    target = Wedged(lambda firmware: Qemu(machine_of(BOARD), firmware))
    lamp = Lamp(target)
    identity = Identity("desk", BOARD, "hardware", "", frozenset())
    device = Mcu(identity, target, switch=lambda: PowerSwitch(lamp, lamp, off_s=0.0))
    try:
        device.deploy(built(BOARD))
        target.wedged = True
        target.close()
        device._drop_session()
        assert device.recover() == "power-cycle"
        assert lamp.on
        assert device.recover() == "resync"
    finally:
        device.close()


def test_without_a_switch_the_ladder_ends_with_what_the_deployment_said() -> None:
    target = Wedged(lambda firmware: Qemu(machine_of(BOARD), firmware))
    device = Mcu(Identity("desk", BOARD, "hardware", "", frozenset()), target)
    try:
        device.deploy(built(BOARD))
        target.wedged = True
        target.close()
        device._drop_session()
        with pytest.raises(ProbeError, match="does not answer"):
            device.recover()
        with pytest.raises(ConfigError, match="desk has no power switch"):
            device.power("cycle")
    finally:
        device.close()
