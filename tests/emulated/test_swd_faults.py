"""Everything that goes wrong at a debug probe: each is said clearly, and after each the next deployment succeeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.probed import EXPECTED, Rig, probed_entry, results, rig, small_elf
from helpers.toolchain import needs_qemu

from lab.artifact import Artifact
from lab.devices.probed import probed_machine
from lab.emulators.probe.board import ProbedBoard
from lab.emulators.probe.faults import ALWAYS
from lab.errors import ConfigError, Crash, ProbeError, ToolMissing
from lab.transports import swd_settings
from lab.transports.swd import Swd
from lab.transports.swd_image import Image, read_image
from lab.transports.swd_settings import SwdSettings, open_swd

pytestmark = needs_qemu

M4F = ("-mcpu=cortex-m4", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """One Cortex-M4F board for all of them: what one test breaks would stay broken for the next."""
    with rig("m4f-swd", tmp_path_factory.mktemp("desk")) as one:
        assert one.deploys()
        yield one


@pytest.fixture(autouse=True)
def _works_again(desk: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    monkeypatch.undo()
    desk.board.faults.clear()
    desk.board.power_on()
    assert desk.deploys(), "the next deployment has to succeed"


def other(desk: Rig, folder: Path) -> Artifact:
    """An image that the board does not hold, so that flash has to be written; 8 KiB."""
    return replace(desk.artifact, path=small_elf(folder, *M4F, words=2048), build_id="0" * 16)


def held(desk: Rig) -> Image | None:
    image = read_image(desk.artifact.path)
    with open_swd(desk.settings) as swd:
        return image if swd.holds(image) else None


def test_an_unknown_target_is_refused_with_those_like_it(desk: Rig) -> None:
    with pytest.raises(ConfigError, match=r"no target 'nrf15'; like it are .*nrf51.* \(\d+ in all\)") as refused:
        open_swd(replace(desk.settings, target="nrf15"))
    assert "pyocd list --targets" in refused.value.hint


def test_a_pack_that_is_none_is_refused(desk: Rig, tmp_path: Path) -> None:
    pack = tmp_path / "Maker.Part.pack"
    pack.write_text("no zip file")
    with pytest.raises(ConfigError, match=r"no target 'part9000' nor does .*Maker\.Part\.pack"):
        open_swd(replace(desk.settings, target="part9000", pack=pack))


def test_locked_flash_is_an_error_with_the_way_out(desk: Rig, tmp_path: Path) -> None:
    desk.board.faults.lock_flash("refuse")
    with pytest.raises(ProbeError, match=r"flash refuses to be written: .*\(result code 0x1\)") as refused:
        desk.device.deploy(other(desk, tmp_path))
    assert "pyocd erase --mass" in refused.value.hint
    assert not refused.value.transient
    assert held(desk), "nothing was written"


def test_flash_that_is_protected_against_reading_is_an_error_with_the_way_out(desk: Rig) -> None:
    desk.board.faults.fault(ALWAYS, address=0, size=1 << 20)
    with pytest.raises(ProbeError, match=r"flash refuses to be read: Memory transfer fault") as refused:
        desk.device.deploy(desk.artifact)
    assert "it is locked or protected: `pyocd erase --mass" in refused.value.hint


def test_an_image_outside_flash_is_refused_before_anything_is_written(desk: Rig, tmp_path: Path) -> None:
    image = replace(desk.artifact, path=small_elf(tmp_path, *M4F, address=0x08000000))
    with pytest.raises(ConfigError, match=r"first at 0x08000000; its flash is \[0x00000000, 0x00400000\)"):
        desk.device.deploy(image)
    assert held(desk)


@pytest.mark.parametrize(
    "flags",
    [("-mcpu=cortex-m7", "-mfpu=fpv5-d16", "-mfloat-abi=hard"), ("-mcpu=cortex-m55", "-mfloat-abi=hard")],
    ids=["m7", "m55"],
)
def test_an_elf_for_another_core_is_refused_before_anything_is_written(
    flags: tuple[str, ...], desk: Rig, tmp_path: Path
) -> None:
    image = replace(desk.artifact, path=small_elf(tmp_path, *flags))
    with pytest.raises(ConfigError, match=r"the board has a Cortex-M4 \(v7E-M, FPv4-SP\)"):
        desk.device.deploy(image)
    assert held(desk)


def test_a_probe_that_is_unplugged_while_flash_is_written(desk: Rig, tmp_path: Path) -> None:
    desk.board.faults.unplug(after_transfers=3000)
    with pytest.raises(ProbeError, match=r"was lost while programming: .*; flash is half written now") as lost:
        desk.device.deploy(other(desk, tmp_path))
    assert lost.value.transient
    with pytest.raises(ProbeError, match=r"no debug probe .* is attached; attached: none"):
        open_swd(desk.settings)
    desk.board.faults.clear()
    assert held(desk) is None


def test_a_board_without_power(desk: Rig) -> None:
    desk.board.power_off()
    with pytest.raises(ProbeError, match="does not answer while connecting") as silent:
        desk.device.deploy(desk.artifact)
    assert "is the board powered?" in silent.value.hint


def test_two_probes_with_one_id_are_not_chosen_between(desk: Rig) -> None:
    machine = probed_machine(probed_entry("m4f-swd"))
    with (
        ProbedBoard(machine, desk.settings.unique_id, duplicate=True),
        pytest.raises(ProbeError, match=f"2 probes call themselves {desk.settings.unique_id}; attached:") as both,
    ):
        desk.device.deploy(desk.artifact)
    assert "unplug all but one" in both.value.hint


def test_flash_that_reads_back_different_names_the_first_address(desk: Rig, tmp_path: Path) -> None:
    desk.board.faults.flip_bit(0x1234, 6)
    desk.board.faults.flip_bit(0x1000, 0)
    with pytest.raises(ProbeError, match=r"first at 0x00001000, 0x01 instead of 0x00; 2 of 8\d\d\d bytes differ"):
        desk.device.deploy(other(desk, tmp_path))


def test_an_algorithm_that_lies_is_found_out(desk: Rig, tmp_path: Path) -> None:
    desk.board.faults.lock_flash("drop")
    with pytest.raises(ProbeError, match=r"reads back different from .*small\.elf: first at 0x0000000\d, "):
        desk.device.deploy(other(desk, tmp_path))


def test_a_link_that_says_wait_is_an_error_once_and_no_more(desk: Rig) -> None:
    desk.board.faults.wait(times=1, after_transfers=2000)
    with pytest.raises(ProbeError, match=r"WAIT") as slow:
        desk.device.deploy(desk.artifact)
    assert slow.value.transient


def test_a_core_that_cannot_say_what_it_is_is_not_taken_for_another(desk: Rig) -> None:
    desk.board.faults.fault(times=1, address=0xE000ED00)
    with pytest.raises(ProbeError, match=r"says nothing of itself|does not answer|nothing answers"):
        desk.device.deploy(desk.artifact)


def test_a_slow_link_only_takes_longer(desk: Rig) -> None:
    desk.board.faults.slow(0.0005)
    assert desk.deploys()


def test_a_probe_that_is_in_use_says_so(desk: Rig) -> None:
    with open_swd(desk.settings, "attach"), pytest.raises(ProbeError, match="in use"):
        open_swd(desk.settings)


def test_memory_that_is_not_there_is_named_and_does_no_harm(desk: Rig) -> None:
    with open_swd(desk.settings) as swd:
        with pytest.raises(ProbeError, match="nothing answers while reading 4 bytes at 0x5fff0000"):
            swd.read_memory(0x5FFF0000, 4)
        assert swd.read_memory(0, 4) == read_image(desk.artifact.path).segments[0].data[:4]


def test_a_probe_that_vanishes_while_the_runner_talks_through_it(desk: Rig, tmp_path: Path) -> None:
    with rig("m4f-rtt", tmp_path) as through:
        assert through.deploys()
        through.board.faults.unplug()
        with pytest.raises(ProbeError, match=r"was lost while (reading|writing)"):
            results(through.device)
        through.board.faults.clear()
        assert through.deploys()


def test_a_core_that_locks_up_comes_back_by_its_power(desk: Rig) -> None:
    desk.device.deploy(desk.artifact)
    with open_swd(desk.settings) as swd:
        swd.write_register("sp", 0)
        swd.write_register("msp", 0)
        swd.write_register("psp", 0)
        swd.write_register("pc", 0x50000000)
    with pytest.raises((Crash, ProbeError)):
        results(desk.device)
    assert desk.device.recover() == "re-deploy"
    assert results(desk.device) == EXPECTED


def test_without_pyocd_the_way_to_get_it_is_said(desk: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swd_settings.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ToolMissing, match="pyOCD is not installed") as missing:
        open_swd(desk.settings)
    assert missing.value.hint == "pip install 'hil-lab[swd]'"


def test_a_session_that_fails_leaves_the_probe_free(desk: Rig) -> None:
    desk.board.faults.no_ack(ALWAYS)
    with pytest.raises(ProbeError, match="does not answer while connecting"):
        open_swd(desk.settings)
    desk.board.faults.clear()
    with Swd(SwdSettings(desk.settings.unique_id, desk.settings.target)) as swd:
        assert swd.state == "halted"
