"""pyOCD sessions with the virtual probe of an emulated board, as a user of pyOCD opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from helpers.toolchain import board_kind, machine_of
from pyocd.core.helpers import ConnectHelper
from pyocd.core.session import Session
from pyocd.probe.debug_probe import DebugProbe

from lab.emulators.probe.board import ProbedBoard, ProbedMachine

# adds r0, #1; b back to it
COUNTING_LOOP = bytes.fromhex("0130fde7")
# str r1, [r0]; adds r1, #1; b back to the store
STORING_LOOP = bytes.fromhex("01600131fce7")


def probed(board: str, unique_id: str = "", *, duplicate: bool = False) -> ProbedBoard:
    """A board of the lab behind a virtual probe."""
    kind = board_kind(board)
    machine = ProbedMachine(machine_of(board), kind.kind, kind.cpu, kind.pyocd_target or "")
    return ProbedBoard(machine, unique_id, duplicate=duplicate)


@contextmanager
def session_on(board: ProbedBoard, probe: DebugProbe | None = None, **options: object) -> Iterator[Session]:
    """A session with pyOCD's own CMSIS-DAP code, or with another probe; the core stays halted when it ends."""
    # An emulated core is reset at once; waiting for it is for real ones.
    chosen: dict[str, object] = {
        "resume_on_disconnect": False,
        "reset.hold_time": 0.0,
        "reset.post_delay": 0.0,
        **options,
    }
    if probe is None:
        session = ConnectHelper.session_with_chosen_probe(
            unique_id=f"lab:{board.unique_id}", blocking=False, options=chosen
        )
        assert session is not None, f"pyOCD does not see {board.unique_id}"
    else:
        session = Session(probe, options=chosen)
    try:
        session.open()
        yield session
    finally:
        session.close()


def program(base: int, stack: int) -> bytes:
    """A program for the start of flash: counts in r0 for ever; its hard fault handler is a loop.

    Args:
        base: where flash is.
        stack: initial stack pointer.
    """
    handler = base + LOOP_OFFSET + 8
    vectors = [stack, base + LOOP_OFFSET - 2 | 1, *(handler | 1,) * 14]
    # movs r0, #0 before the loop; b . in the handler
    code = bytes.fromhex("00bf0020") + COUNTING_LOOP + bytes.fromhex("00bf00bf") + bytes.fromhex("fee7fee7")
    return b"".join(vector.to_bytes(4, "little") for vector in vectors) + code


# Of the counting loop in `program`; its hard fault handler stands 8 bytes on, its first instruction 2 before.
LOOP_OFFSET = 0x44
