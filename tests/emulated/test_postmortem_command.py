"""``lab crash``, and post-mortems through a debug probe: boards that hang, sit in their fault handler, or idle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers.probed import probed_entry, probed_image
from helpers.toolchain import needs_qemu

from lab.artifact import Artifact
from lab.build import FIRMWARE
from lab.cli import main
from lab.devices.base import Identity
from lab.devices.connect import firmware_of
from lab.devices.mcu import Mcu
from lab.devices.probed import kept_id, probed_machine, swd_settings
from lab.devices.swd_mcu import SwdTarget
from lab.emulators.probe.board import ProbedBoard
from lab.errors import Hang
from lab.events import Job
from lab.paths import cache_dir, config_dir
from lab.postmortem.image import Image
from lab.transports.swd_image import read_image
from lab.transports.swd_settings import SwdSettings, open_swd
from lab.wire import Session

pytestmark = needs_qemu

BENCH = config_dir() / "probed.yaml"
USERS_CACHE = cache_dir()
CALLERS = ["handle_run", "handle", "session_receive", "lab_main", "run_on_process_stack"]


@pytest.fixture(autouse=True)
def _images_of_the_user(monkeypatch: pytest.MonkeyPatch, private_lab: Path) -> None:
    monkeypatch.setenv("LAB_CACHE", str(USERS_CACHE))


@contextmanager
def deployed(name: str) -> Iterator[tuple[Mcu, SwdSettings, Artifact]]:
    """A device on the board that ``lab emulate`` would keep."""
    entry = probed_entry(name)
    artifact = probed_image(entry)
    with ProbedBoard(probed_machine(entry), kept_id(entry)) as board:
        settings = swd_settings(entry, board.unique_id)
        identity = Identity(name, firmware_of(entry.board), "emulated", "", frozenset())
        device = Mcu(identity, SwdTarget(settings, board.open_serial, board=board))
        try:
            device.deploy(artifact)
            yield device, settings, artifact
        finally:
            device.close()


def crash(name: str, *options: str, refused: bool = False) -> str:
    done = CliRunner().invoke(main, ["--config", str(BENCH), "crash", name, *options])
    assert (done.exit_code != 0) is refused, done.output
    return done.output


def calls(text: str) -> list[str]:
    """Functions of the backtrace in a text."""
    return [line.split()[2] for line in text.splitlines() if line.strip().startswith("#")]


def test_a_hang_is_looked_at_through_the_probe_and_goes_on() -> None:
    with deployed("m4f-swd") as (device, settings, artifact):
        with pytest.raises(Hang) as error:
            list(device.run(Job("hang", b"", 1), silence_s=0.3))
        assert [frame.function for frame in error.value.report.backtrace] == ["job_hang", *CALLERS]
        assert {"psp", "msp", "control"} <= error.value.report.registers.keys()

        looked = crash("m4f-swd")
        assert looked.startswith("m4f-swd was running; the core is at job_hang at job_test.c:")
        assert f"image: {artifact.path}\n" in looked, "found by the build id in flash"
        assert calls(looked) == ["job_hang", *CALLERS]
        assert looked.count("pointer 0x") == 2, "both stack pointers are known through a probe"
        with open_swd(settings, "attach") as swd:
            assert swd.state == "running"

        assert ", and stays halted; the core is at job_hang" in crash("m4f-swd", "--leave-halted")
        with open_swd(settings, "attach") as swd:
            counter = swd.read_register("pc")
            swd.close(resume=False)
        again = crash("m4f-swd", "--elf", str(artifact.path))
        assert again.startswith("m4f-swd was halted, and stays halted; the core is at job_hang")
        assert f"pc={counter:#010x}" in again


def test_a_core_in_its_fault_handler_is_unwound_to_what_was_interrupted() -> None:
    """Through the fault handler's own assembly and the exception frame, to the process stack."""
    entry = probed_entry("m4f-swd")
    artifact = probed_image(entry)
    image = Image(artifact.path)
    reporting = next(one.address for one in image.functions if one.name == "session_crash")
    with ProbedBoard(probed_machine(entry), kept_id(entry)) as board, closing(board.open_serial()) as stream:
        with open_swd(swd_settings(entry, board.unique_id)) as swd:
            swd.flash(read_image(artifact.path))
            swd.set_breakpoint(reporting)
            swd.resume()
            session = Session(stream)
            session.open(10.0)
            with pytest.raises(Hang):
                list(session.run(Job("crash", b"", 1), silence_s=0.3))
            assert swd.wait_for_halt(5.0)
            swd.close(resume=False)
        looked = crash("m4f-swd")
        assert "was halted" in looked
        assert "in region 'inference'" in looked
        assert "CFSR PRECISERR" in looked
        assert "BFAR 0x5fff0000" in looked
        assert "HardFault" in looked
        assert calls(looked) == ["session_crash", "fault_report", "fault_handler", "job_crash", *CALLERS]
        lines = (FIRMWARE / "runner" / "job_test.c").read_text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if "volatile uint32_t *)UNMAPPED" in text)
        assert f"job_test.c:{line}  (interrupted by the exception above)" in looked


@pytest.mark.parametrize("name", ["f405-swd", "microbit-swd"])
def test_an_idle_board_of_another_family(name: str) -> None:
    with deployed(name):
        looked = crash(name)
    assert looked.startswith(f"{name} was ")
    assert calls(looked)[-2:] == ["lab_main", "run_on_process_stack"]
    assert "faults:" not in looked


def test_what_it_refuses(tmp_path: Path) -> None:
    assert "no emulated board m4f-swd is kept running" in crash("m4f-swd", refused=True)
    entry = probed_entry("m4f-swd")
    with ProbedBoard(probed_machine(entry), kept_id(entry)):
        unknown = crash("m4f-swd", refused=True)
        assert "runs no image that was built here" in unknown
        assert "--elf" in unknown
        (tmp_path / "text").write_text("no image")
        assert "is no ELF image" in crash("m4f-swd", "--elf", str(tmp_path / "text"), refused=True)
