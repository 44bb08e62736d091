"""The last that a device said on its line, for people: frames of the runner as JSON, everything else as text."""

from __future__ import annotations

import json

from lab.printable import printable
from lab.wire_frames import decode_frame

KEPT_BYTES = 1 << 16
SHOWN_LINES = 40


class Heard:
    """The end of a byte stream; what is older is forgotten."""

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came."""
        self._kept += data
        if len(self._kept) > 2 * KEPT_BYTES:
            del self._kept[:-KEPT_BYTES]

    def lines(self) -> list[str]:
        """The last lines, at most :data:`SHOWN_LINES`; what is no whole frame yet is the last one."""
        shown, rest = split(bytes(self._kept[-KEPT_BYTES:]))
        return [*shown, *_text(rest).splitlines()][-SHOWN_LINES:]


def split(data: bytes) -> tuple[list[str], bytes]:
    """Lines to show for bytes that came in, and the bytes that are not complete yet."""
    shown = []
    *pieces, rest = data.split(b"\x00")
    for piece in pieces:
        message = decode_frame(piece) if piece else None
        if message is not None:
            shown.append(json.dumps(message, default=lambda value: f"{len(value)} bytes"))
        elif piece:
            shown += _text(piece).splitlines()
    # Firmware that prints text never sends a zero; whole lines of it are shown as they come. A line feed alone may be
    # the first byte of a frame, whose second is never a character.
    if b"\n" in rest[1:] and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in rest):
        whole, _, rest = rest.rpartition(b"\n")
        shown += _text(whole).splitlines()
    return shown, rest


def _text(data: bytes) -> str:
    return printable(data.decode("ascii", errors="backslashreplace"))
