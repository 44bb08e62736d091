"""The adapter of Renode against a dialogue that a stand-in replays to the letter, and what it does when Renode fails.

The dialogue was written from notes and sources, not recorded; see docs/renode.md. The stand-in is a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab.doctor import availability
from lab.emulator_config import RenodeEmulator
from lab.emulators.registry import create
from lab.emulators.registry import version_of as version_of_section
from lab.emulators.renode import find_program, machine, renode_version, version_of
from lab.emulators.renode.machine import Renode, RenodeBoard
from lab.emulators.renode.record import Dialogue, Pair, exercise, main, record
from lab.errors import ConfigError, Crash, EmulatorError, ToolMissing, TransportError
from lab.inventory import load_bench, load_board
from lab.paths import config_dir
from lab.transports.serial import SerialPort

ROOT = Path(__file__).resolve().parents[1]
DIALOGUE = ROOT / "data" / "renode" / "dialogue.json"
PEER = ROOT / "helpers" / "renode_peer.py"
ADDRESS = 0x10000000
BOARD = RenodeBoard("renode/stm32f4-discovery.repl", "usart2", 168, 0x40003000)
SET_UP = 8
REGISTERS = [pair for pair in Dialogue.load(DIALOGUE).pairs if "GetRegister" in pair.command]
CPU = 'cpu: CPU.CortexM @ sysbus\n    cpuType: "cortex-m4"\n'


@dataclass(frozen=True)
class Installed:
    """A Renode that replays, and what it noted."""

    folder: Path
    firmware: Path

    def play(self, dialogue: Dialogue, **settings: object) -> None:
        """Give it a dialogue and ways to misbehave."""
        dialogue.save(self.folder / "dialogue.json")
        settings["dialogue"] = str(self.folder / "dialogue.json")
        (self.folder / "peer.json").write_text(json.dumps(settings))

    @property
    def answered(self) -> int:
        """Commands that were answered."""
        return int((self.folder / "peer.done").read_text())

    @property
    def wrong(self) -> str:
        """The command that was not in the dialogue, empty where all were."""
        note = self.folder / "peer.wrong"
        return note.read_text() if note.exists() else ""

    @property
    def started(self) -> dict[str, Any]:
        """Arguments and environment of the process."""
        return dict(json.loads((self.folder / "peer.started").read_text()))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installed:
    folder = tmp_path / "renode"
    (folder / "platforms" / "cpus").mkdir(parents=True)
    (folder / "platforms" / "cpus" / "stm32f4.repl").write_text(CPU)
    program = folder / "renode"
    # As Renode's own start script, which does not always make way for what it starts.
    program.write_text(f'#!/bin/sh\n"{sys.executable}" "{PEER}" "{folder}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("RENODE", str(program))
    monkeypatch.setenv("RENODE_REACHABLE", "1")
    temporary = tmp_path / "temporary files"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    firmware = tmp_path / "an image.elf"
    firmware.write_bytes(b"\x7fELF and so on")
    version_of.cache_clear()
    made = Installed(folder, firmware)
    made.play(Dialogue.load(DIALOGUE))
    return made


@pytest.fixture
def renode(installed: Installed) -> Iterator[Renode]:
    renode = Renode(BOARD, installed.firmware)
    yield renode
    renode.stop()


def changed(index: int, answer: object) -> Dialogue:
    """The dialogue with another answer somewhere."""
    dialogue = Dialogue.load(DIALOGUE)
    dialogue.pairs[index] = replace(dialogue.pairs[index], answer=answer)
    return dialogue


def set_up_then(*pairs: tuple[str, object]) -> Dialogue:
    """What starting takes, and then these commands."""
    dialogue = Dialogue.load(DIALOGUE)
    return replace(dialogue, pairs=[*dialogue.pairs[:SET_UP], *said(*pairs)])


def said(*pairs: tuple[str, object]) -> list[Pair]:
    """Commands and answers; an answer that is a text is what was printed."""
    return [
        Pair(command, {"status": "PASS", "return": answer} if isinstance(answer, str) else answer)
        for command, answer in pairs
    ]


def refusal(command: str, said: str) -> dict[str, str]:
    """As RenodeKeywords.ExecuteCommand and XmlRpcServer put it."""
    error = f"KeywordException: There was an error when executing command '{command}': {said}\n"
    return {"status": "FAIL", "error": error, "traceback": "   at Antmicro.Renode…\n"}


def folders() -> list[Path]:
    """What instances left behind."""
    return list(Path(machine.tempfile.gettempdir()).glob("lab-renode-*"))


def running_in(group: int) -> list[int]:
    """Processes of a group that still run; what is dead may wait for whoever started it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state, parent, group.
            state, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                found.append(int(folder.name))
    return found


# ---- the dialogue ---------------------------------------------------------------------------------------------------


def test_the_whole_dialogue_and_its_recording(installed: Installed) -> None:
    """Every command comes in its place; recording it again gives the same file."""
    recorded = record(BOARD, installed.firmware, ADDRESS)
    original = Dialogue.load(DIALOGUE)
    assert installed.wrong == ""
    assert installed.answered == len(original.pairs)
    assert recorded.pairs == original.pairs
    assert recorded.version == original.version == "Renode 1.13.0"
    assert folders() == []


def test_the_command_that_records(installed: Installed, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = CliRunner().invoke(main, [str(installed.firmware), str(out), "--board", "stm32f4-discovery"])
    assert done.exit_code == 0, done.output
    assert Dialogue.load(out).pairs == Dialogue.load(DIALOGUE).pairs
    assert f"{len(Dialogue.load(DIALOGUE).pairs)} commands, Renode 1.13.0" in done.output
    with pytest.raises(ConfigError, match="board 'mps2-an386' has no emulator of kind renode"):
        CliRunner().invoke(main, [str(installed.firmware), str(out), "--board", "mps2-an386"], catch_exceptions=False)


def test_the_peer_is_strict(installed: Installed) -> None:
    dialogue = Dialogue.load(DIALOGUE)
    del dialogue.pairs[5]
    installed.play(dialogue)
    with pytest.raises(EmulatorError, match=r"Renode refused 'connector Connect sysbus\.usart2 lablink': not in the d"):
        record(BOARD, installed.firmware, ADDRESS)
    assert "came: connector Connect" in installed.wrong
    installed.play(changed(4, {"status": "PASS", "return": ""}))
    exercised = Renode(BOARD, installed.firmware)
    with exercised, pytest.raises(EmulatorError, match="not in the dialogue"):
        exercise(exercised, ADDRESS + 1)


def test_values(renode: Renode) -> None:
    renode.start()
    renode.run_for(0.01)
    # 10 ms at 168 instructions per microsecond.
    assert renode.executed_instructions() == 1_680_000
    registers = renode.registers()
    assert list(registers) == [*(f"r{number}" for number in range(13)), "sp", "lr", "pc", "xpsr"]
    assert (registers["r0"], registers["sp"], registers["pc"]) == (0x20000410, 0x2001FFE0, 0x080014C2)


def test_the_uart_is_a_stream_of_every_byte(renode: Renode) -> None:
    renode.start()
    port = renode.open_serial()
    every_byte = bytes(range(256))
    port.write(every_byte)
    came = b""
    while len(came) < 256:
        came += port.read(5.0)
    assert came == every_byte
    port.close()


def test_its_files_and_settings_stay_in_a_folder_of_its_own(renode: Renode, installed: Installed) -> None:
    renode.start()
    folder = renode.folder
    started = installed.started
    assert started["environment"]["TMPDIR"] == started["environment"]["XDG_CONFIG_HOME"] == str(folder)
    assert started["arguments"][:2] == ["--disable-xwt", "--plain"]
    assert (folder / "firmware.elf").read_bytes() == installed.firmware.read_bytes()
    assert (folder / "0-stm32f4.repl").read_text() == CPU
    assert f'using "{folder}/0-stm32f4.repl"' in (folder / "1-stm32f4-discovery.repl").read_text()
    renode.stop()
    renode.stop()
    assert not folder.exists()


def test_folders_of_killed_labs_are_removed(renode: Renode) -> None:
    stale = Path(machine.tempfile.gettempdir()) / "lab-renode-999999999-x"
    stale.mkdir()
    renode.start()
    assert folders() == [renode.folder]


# ---- the board and the program ---------------------------------------------------------------------------------------


def test_the_board_file_leads_to_it(installed: Installed) -> None:
    board = load_board(config_dir() / "boards" / "stm32f4-discovery.yaml")
    section = next(one for one in board.emulators if isinstance(one, RenodeEmulator))
    made = create(board, section, installed.firmware)
    assert isinstance(made, Renode)
    assert (made.kind, made.version) == ("renode", "Renode 1.13.0")
    assert version_of_section(section) == "Renode 1.13.0"
    made.start()
    made.stop()
    assert installed.answered == SET_UP
    with pytest.raises(ConfigError, match="Renode has no marker line"):
        create(board, section, installed.firmware, marker_socket=Path("/x"))


def test_no_renode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RENODE", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match="no renode in PATH"):
        find_program()
    with pytest.raises(ToolMissing, match="Renode is not installed"):
        Renode(BOARD, tmp_path / "x.elf")
    assert renode_version() == ""
    monkeypatch.setenv("RENODE", "/opt/nothing")
    with pytest.raises(ToolMissing, match="RENODE=/opt/nothing is no program") as error:
        find_program()
    assert "docs/renode.md" in error.value.hint


@pytest.mark.parametrize(
    ("says", "version"),
    [
        ("Renode v1.15.3.29888\n  build: 4a9e1c5c-202409101234\n  runtime: .NET 6", "Renode 1.15.3.29888"),
        ("Renode, version 1.13.0.2", "Renode 1.13.0.2"),
        ("?", "Renode"),
    ],
)
def test_versions(tmp_path: Path, says: str, version: str) -> None:
    program = tmp_path / "renode"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{says}\nEND\n")
    program.chmod(0o755)
    assert version_of(program) == version


# ---- faults that it injects ------------------------------------------------------------------------------------------


def test_a_held_core_is_not_stopped_for_a_flip(installed: Installed, renode: Renode) -> None:
    installed.play(set_up_then(("sysbus ReadByte 0x8000000", "0x20\n"), ("sysbus WriteByte 0x8000000 0xa0", "")))
    renode.start()
    renode.flip_bit(0x08000000, 7)
    assert installed.answered == SET_UP + 2


def test_a_power_cut_and_a_new_start(installed: Installed, renode: Renode) -> None:
    renode.start()
    group = renode._process.pid if renode._process is not None else 0
    port = renode.open_serial()
    # The start script and what it started.
    assert len(running_in(group)) == 2
    renode.power_cut()
    # Killed is not yet ended.
    while running_in(group):
        time.sleep(0.01)
    with pytest.raises(EmulatorError, match="ended with status -9"):
        renode.check_alive()
    with pytest.raises(TransportError):
        read_on(port)
    port.close()
    (installed.folder / "peer.done").unlink()
    renode.start()
    assert installed.answered == SET_UP
    renode.open_serial().close()


def read_on(port: SerialPort) -> None:
    while True:
        port.read(1.0)


def test_a_board_without_a_watchdog(renode: Renode, installed: Installed) -> None:
    assert "watchdog" in renode.faults
    without = Renode(replace(BOARD, iwdg=None), installed.firmware)
    assert renode.faults - without.faults == {"watchdog"}
    with pytest.raises(ConfigError, match="cannot take the fault 'watchdog' here; allowed: flip-flash, flip-ram"):
        without.bite_watchdog()


# ---- when Renode fails -----------------------------------------------------------------------------------------------


def test_not_started(renode: Renode) -> None:
    for method in (renode.release, renode.reset, renode.open_serial, renode.registers, renode.freeze_clock):
        with pytest.raises(EmulatorError, match="Renode is not running"):
            method()
    with pytest.raises(EmulatorError, match="Renode was not started"):
        renode.write_memory(0, b"x")


@pytest.mark.parametrize("index", [0, 2, 4, 7])
def test_a_command_that_is_refused_at_start_is_told_in_renodes_words(
    installed: Installed, renode: Renode, index: int
) -> None:
    command = Dialogue.load(DIALOGUE).pairs[index].command
    installed.play(changed(index, refusal(command, "Address already in use")))
    with pytest.raises(EmulatorError, match=r"Renode refused '.*': KeywordException: .*: Address already in use"):
        renode.start()
    assert folders() == []
    installed.play(Dialogue.load(DIALOGUE))
    renode.start()
    assert installed.answered == SET_UP


def test_a_server_that_never_opens(installed: Installed, renode: Renode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_START_S", 0.5)
    monkeypatch.setattr(machine, "_COMMAND_S", 0.2)
    installed.play(Dialogue.load(DIALOGUE), silent=True)
    with pytest.raises(EmulatorError, match=r"opened no server at port \d+ within 0 s:\n") as error:
        renode.start()
    assert error.value.transient
    assert folders() == []


def test_a_program_that_ends_at_once(installed: Installed, renode: Renode) -> None:
    (installed.folder / "renode").write_text("#!/bin/sh\necho no libraries here\nexit 7\n")
    with pytest.raises(EmulatorError, match="ended with status 7:\nno libraries here"):
        renode.start()
    assert folders() == []


@pytest.mark.parametrize("command", [1, 6])
def test_a_process_that_dies_at_start(installed: Installed, renode: Renode, command: int) -> None:
    installed.play(Dialogue.load(DIALOGUE), dies_at=command)
    with pytest.raises(EmulatorError, match=r"ended with status 3:\n(.|\n)*Fatal error: the peer was told to die here"):
        renode.start()
    assert folders() == []


def test_a_process_that_dies_in_the_middle(installed: Installed, renode: Renode) -> None:
    installed.play(Dialogue.load(DIALOGUE), dies_at=SET_UP + 1)
    renode.start()
    renode.run_for(0.01)
    with pytest.raises(EmulatorError, match=r"ended with status 3:\n(.|\n)*Fatal error") as error:
        renode.executed_instructions()
    assert error.value.transient
    with pytest.raises(EmulatorError, match="ended with status 3"):
        renode.check_alive()


def test_a_uart_that_nobody_serves(installed: Installed, renode: Renode) -> None:
    installed.play(Dialogue.load(DIALOGUE), deaf=True)
    renode.start()
    with pytest.raises(TransportError, match=f"socket://127.0.0.1:{renode.serial_port} cannot be opened.*refused"):
        renode.open_serial()


def test_a_core_that_gave_up_is_a_crash_with_its_registers(installed: Installed, renode: Renode) -> None:
    halted, locked_up = "sysbus.cpu IsHalted", "sysbus.cpu IsLockedUp"
    asked = [(halted, "False\n"), (locked_up, "True\n")]
    # Once to see which of them this version knows, then what they are.
    dialogue = set_up_then(("start", ""), *asked, *asked)
    dialogue.pairs += REGISTERS
    installed.play(dialogue)
    renode.start()
    # Before it is released, a core is held and not dead.
    renode.check_alive()
    renode.release()
    with pytest.raises(Crash, match="the core stands at pc=0x080014c2: IsLockedUp") as error:
        renode.check_alive()
    assert error.value.report.registers["sp"] == 0x2001FFE0


def test_a_core_that_was_aborted_is_known_from_the_log_until_it_is_reset(installed: Installed, renode: Renode) -> None:
    well = [("sysbus.cpu IsHalted", "False\n"), ("sysbus.cpu IsLockedUp", "False\n")]
    dialogue = set_up_then(("start", ""))
    dialogue.pairs += [*REGISTERS, *said(("machine Reset", ""), *well, *well)]
    installed.play(dialogue)
    renode.start()
    renode.release()
    with (renode.folder / "renode.log").open("a") as log:
        log.write("12:00:01.0000 [ERROR] cpu: CPU abort [PC=0x80014C2]: Trying to execute code outside RAM or ROM.\n")
    with pytest.raises(Crash, match=r"pc=0x080014c2: CPU abort \[PC=0x80014C2\]: Trying to execute code outside RAM"):
        renode.check_alive()
    renode.reset()
    renode.check_alive()
    assert installed.wrong == ""


def test_the_older_name_of_registers(installed: Installed, renode: Renode) -> None:
    first = "sysbus.cpu GetRegister 0"
    older = [(pair.command.replace("GetRegister", "GetRegisterUnsafe"), pair.answer) for pair in REGISTERS[1:]]
    installed.play(set_up_then((first, refusal(first, "sysbus.cpu does not provide a method GetRegister")), *older))
    renode.start()
    assert renode.registers()["lr"] == 0x080014B5
    assert installed.wrong == ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("Hello", "answered 'sysbus.cpu ExecutedInstructions' with 'Hello'; a number was expected"),
        ("", "with ''; a number was expected"),
        ("0x12 0x34", "a number was expected"),
        ({"status": "FAIL"}, "Renode refused 'sysbus.cpu ExecutedInstructions': {'status': 'FAIL'}"),
        ("PASS by itself", "a number was expected"),
        (["a", "list"], r"Renode refused .*: \['a', 'list'\]"),
        (17, "Renode refused .*: 17"),
    ],
)
def test_answers_that_make_no_sense(installed: Installed, renode: Renode, answer: object, words: str) -> None:
    installed.play(set_up_then(("sysbus.cpu ExecutedInstructions", answer)))
    renode.start()
    with pytest.raises(EmulatorError, match=words):
        renode.executed_instructions()


def test_a_number_in_decimal(installed: Installed, renode: Renode) -> None:
    installed.play(set_up_then(("sysbus.cpu ExecutedInstructions", "1680000\n")))
    renode.start()
    assert renode.executed_instructions() == 1_680_000


@pytest.mark.parametrize(
    "printed", ["[\n0x01, \n]", "[\n0x01, 0x02, 0x03, \n]", "[\n0x01, 0x100, \n]", "nothing"]
)
def test_memory_that_comes_back_wrong(installed: Installed, renode: Renode, printed: str) -> None:
    installed.play(set_up_then(("sysbus ReadBytes 0x20000000 2", printed)))
    renode.start()
    with pytest.raises(EmulatorError, match=r"Renode gave \d numbers for 2 bytes at 0x20000000"):
        renode.read_memory(0x20000000, 2)


def test_much_memory_comes_in_pieces(installed: Installed, renode: Renode) -> None:
    first, rest = bytes(range(256)) * 16, b"\x01\x02"
    listed: Callable[[bytes], str] = lambda data: f"[\n{', '.join(f'0x{byte:02X}' for byte in data)}\n]"  # noqa: E731
    installed.play(
        set_up_then(
            ("sysbus ReadBytes 0x20000000 4096", listed(first)), ("sysbus ReadBytes 0x20001000 2", listed(rest))
        )
    )
    renode.start()
    assert renode.read_memory(0x20000000, 4098) == first + rest


def test_a_span_of_time_needs_a_held_core(installed: Installed, renode: Renode) -> None:
    installed.play(
        set_up_then(("start", ""), ("pause", ""), ('emulation RunFor "0.000100000"', "")),
    )
    renode.start()
    renode.release()
    with pytest.raises(ConfigError, match="only a held core can run for a span"):
        renode.run_for(0.0001)
    renode.hold()
    renode.run_for(0.0001)
    assert installed.answered == SET_UP + 3


# ---- what the doctor says --------------------------------------------------------------------------------------------


def test_the_doctor_names_it(installed: Installed, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = load_bench(config_dir() / "emulators.yaml").devices["f4-discovery"]
    assert "Renode" not in availability(entry, list)
    assert "qemu" not in availability(entry, list)
    monkeypatch.setenv("RENODE", str(installed.folder / "gone"))
    assert "Renode is not installed: install Renode's own package" in availability(entry, list)


def test_where_others_could_reach_its_ports_it_is_not_started(
    installed: Installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It listens on all interfaces, and runs whatever command comes."""
    monkeypatch.delenv("RENODE_REACHABLE")
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    with pytest.raises(ConfigError, match=r"whoever reaches this computer by eth0: .*RENODE_REACHABLE=1"):
        Renode(BOARD, installed.firmware).start()
    assert not (installed.folder / "peer.started").exists()
    monkeypatch.setattr("socket.if_nameindex", lambda: [(1, "lo")])
    with Renode(BOARD, installed.firmware) as alone:
        alone.check_alive()
