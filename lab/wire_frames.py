"""Frames of the runner protocol in a byte stream; ``docs/wire.md`` is the specification."""

from __future__ import annotations

import io
import zlib
from typing import cast

import cbor2
from cobs import cobs

from lab.wire_messages import Message, Value

LONGEST_FRAME = 1 << 16


def encode_frame(message: Message) -> bytes:
    """One message as ``COBS(CBOR ‖ CRC-32) 00``."""
    return framed(cbor2.dumps(dict(message)))


def framed(payload: bytes) -> bytes:
    """An encoded message as a frame."""
    return bytes(cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))) + b"\x00"


def decode_frame(encoded: bytes) -> dict[str, Value] | None:
    """The message of one frame without its closing zero; None where it is not a valid frame."""
    try:
        raw = bytes(cobs.decode(encoded))
    except cobs.DecodeError:
        return None
    payload, check = raw[:-4], raw[-4:]
    if len(raw) < 5 or zlib.crc32(payload).to_bytes(4, "little") != check:
        return None
    stream = io.BytesIO(payload)
    try:
        message = cbor2.load(stream)
    except (cbor2.CBORDecodeError, ValueError, RecursionError):
        return None
    whole = stream.tell() == len(payload)
    if not whole or not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        return None
    return cast(dict[str, Value], message)


class FrameDecoder:
    """Finds frames in a byte stream; anything that is not a frame is skipped and counted.

    What comes out does not depend on how the stream is cut into calls of :meth:`feed`.

    Attributes:
        garbage_frames: zero-terminated pieces that were no valid frame, or longer than ``LONGEST_FRAME``.
        garbage_bytes: bytes in them.
    """

    def __init__(self) -> None:
        self.garbage_frames = 0
        self.garbage_bytes = 0
        self._pending = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> list[dict[str, Value]]:
        """Take bytes in; return the messages completed by them, in order."""
        messages = []
        *pieces, rest = data.split(b"\x00")
        for piece in pieces:
            self._append(piece)
            message = self._end_frame()
            if message is not None:
                messages.append(message)
        self._append(rest)
        return messages

    @property
    def pending_bytes(self) -> int:
        """Bytes kept of a frame that is not complete yet."""
        return len(self._pending)

    def _append(self, piece: bytes) -> None:
        if self._too_long:
            self.garbage_bytes += len(piece)
            return
        self._pending += piece
        if len(self._pending) > LONGEST_FRAME:
            # Nobody sends such a frame: do not keep what a line with no zeros says all night.
            self._too_long = True
            self._skip()

    def _end_frame(self) -> dict[str, Value] | None:
        self._too_long = False
        if not self._pending:
            return None
        message = decode_frame(bytes(self._pending))
        if message is None:
            self._skip()
        self._pending.clear()
        return message

    def _skip(self) -> None:
        self.garbage_frames += 1
        self.garbage_bytes += len(self._pending)
        self._pending.clear()
