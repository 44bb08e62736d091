"""Records what the adapter and a real Renode say to each other, for ``tests/data/renode``.

::

    RENODE=/opt/renode/renode python -m lab.emulators.renode.record firmware.elf tests/data/renode/dialogue.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import click

from lab.emulator_config import RenodeEmulator
from lab.emulators.renode.machine import Renode, RenodeBoard, monitor_path
from lab.emulators.renode.monitor import Monitor
from lab.errors import ConfigError
from lab.inventory import board_files, load_board
from lab.paths import config_dir

ABOUT = "Recorded by lab.emulators.renode.record with the Renode whose version stands here."
PATTERN = bytes(range(0xF0, 0x100))


@dataclass(frozen=True)
class Pair:
    """One command and the server's answer; ``{folder}`` and ``{serial_port}`` stand for what differs in each run."""

    command: str
    answer: object


@dataclass
class Dialogue:
    """What was said.

    Attributes:
        about: how it came about.
        version: program and version.
        pairs: in order.
    """

    about: str = ABOUT
    version: str = ""
    pairs: list[Pair] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Dialogue:
        """Read what :meth:`save` wrote."""
        data = json.loads(path.read_text())
        return cls(data["about"], data["version"], [Pair(**pair) for pair in data["pairs"]])


class RecordingMonitor(Monitor):
    """A monitor that hands every command and its answer on."""

    def __init__(self, port: int, timeout_s: float, record: Callable[[str, object], None]) -> None:
        super().__init__(port, timeout_s)
        self._record = record

    def _ask(self, command: str) -> object:
        answer = super()._ask(command)
        self._record(command, answer)
        return answer


def record(board: RenodeBoard, firmware: Path, address: int) -> Dialogue:
    """Go through everything the adapter can do, with the Renode that is installed.

    Args:
        board: what to emulate.
        firmware: an image of the lab's for it.
        address: 16 bytes of RAM that the image does not use.
    """
    dialogue = Dialogue()

    def keep(command: str, answer: object) -> None:
        command = command.replace(monitor_path(renode.folder), "@{folder}")
        command = command.replace(str(renode.serial_port), "{serial_port}")
        dialogue.pairs.append(Pair(command, answer))

    renode = Renode(board, firmware, monitor=lambda port, timeout_s: RecordingMonitor(port, timeout_s, keep))
    dialogue.version = renode.version
    with renode:
        exercise(renode, address)
    return dialogue


def exercise(renode: Renode, address: int) -> None:
    """What :func:`record` does with a started Renode; the tests do the same with what was recorded."""
    renode.run_for(0.01)
    renode.executed_instructions()
    renode.registers()
    renode.open_serial().close()
    renode.release()
    renode.check_alive()
    renode.write_memory(address, PATTERN)
    renode.read_memory(address, len(PATTERN))
    renode.flip_bit(address, 0)
    renode.raise_nmi()
    renode.freeze_clock()
    renode.bite_watchdog()
    renode.hold()
    renode.release()
    renode.reset()


@click.command()
@click.argument("firmware", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--board", default="stm32f4-discovery", show_default=True, help="A board kind that Renode emulates.")
@click.option("--address", default="0x10000000", show_default=True, help="RAM that the image does not use.")
def main(firmware: Path, out: Path, board: str, address: str) -> None:
    """Record a dialogue with the installed Renode."""
    kinds = board_files(config_dir())
    sections = load_board(kinds[board]).emulators if board in kinds else ()
    section = next((one for one in sections if isinstance(one, RenodeEmulator)), None)
    if section is None:
        raise ConfigError(f"board {board!r} has no emulator of kind renode", hint="name another with --board")
    kind = RenodeBoard(section.platform, section.uart, section.mips, section.iwdg)
    dialogue = record(kind, firmware, int(address, 0))
    dialogue.save(out)
    click.echo(f"{out}: {len(dialogue.pairs)} commands, {dialogue.version}")


if __name__ == "__main__":
    main()
