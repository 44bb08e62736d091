"""Agreeing on a rate, and ports that go and come back, against a model of a board written from docs/wire.md.

The line is in memory and answers at once; while its ends are at different rates nothing on it is readable.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cobs import cobs
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import DeviceError, Hang, LabError, ProtocolError, TransportError
from lab.wire import Session

Message = dict[str, Any]
RATES = (115200, 230400, 460800, 921600)
HELLO: Message = {
    "v": 1, "b": "0123456789abcdef", "d": "model-board", "k": "virtual", "h": 25_000_000, "u": 1024, "cr": 1,
    "ba": 0, "bs": 4096, "ar": 1024, "st": 2048, "mo": "tiny",
}  # fmt: skip


def frame(message: Message) -> bytes:
    payload = cbor2.dumps(message)
    return bytes(cobs.encode(payload + zlib.crc32(payload).to_bytes(4, "little"))) + b"\0"


def unframe(piece: bytes) -> Message | None:
    try:
        raw = cobs.decode(piece)
    except cobs.DecodeError:
        return None
    good = len(raw) >= 5 and zlib.crc32(raw[:-4]) == int.from_bytes(raw[-4:], "little")
    return cbor2.loads(raw[:-4]) if good else None


class Board:
    """A board and the host's port to it, as a tunable byte stream.

    Attributes:
        device_baud: where the board is; it goes back to the first after three chunks of garbage.
        noisy_from: at and above this, long frames are damaged.
        lost: frames of these types vanish once each; ``say …`` are the board's.
        stays: the board never goes back.
        changes: every rate the host went to.
    """

    def __init__(self, rates: tuple[int, ...] = RATES, max_baud: int = 1 << 31, noisy_from: int = 1 << 31) -> None:
        self.name = "model"
        self.baud = self.first_baud = self.device_baud = RATES[0]
        self.max_baud = max_baud
        self.noisy_from = noisy_from
        self.rates = rates
        self.lost: list[str] = []
        self.stays = False
        self.changes: list[int] = []
        self.resets = self.blobs = 0
        self.probed_bytes = 0
        self._garbage = 0
        self._last = self._next = 0
        self._incoming = b""
        self._outgoing = b""

    # ---- the host's port ----

    def set_baud(self, baud: int) -> None:
        self.changes.append(baud)
        self.baud = baud

    def limit_baud(self, baud: int) -> None:
        self.max_baud = baud

    def write(self, data: bytes) -> None:
        if self.baud != self.device_baud:
            self._incoming = b""
            self._hear_garbage()
            return
        *pieces, self._incoming = (self._incoming + data).split(b"\0")
        for piece in filter(None, pieces):
            message = unframe(piece)
            if message is None or self._is_damaged(piece) or self._loses(message["t"]):
                continue
            self._garbage = 0
            self._take(message)

    def read(self, timeout_s: float) -> bytes:
        data, self._outgoing = self._outgoing, b""
        return data

    def close(self) -> None:
        pass

    # ---- the board ----

    def _hear_garbage(self) -> None:
        self._garbage += 1
        if self._garbage == 3 and not self.stays:
            self.device_baud, self._garbage = self.rates[0], 0

    def _loses(self, kind: str) -> bool:
        if kind in self.lost:
            self.lost.remove(kind)
            return True
        return False

    def _is_damaged(self, piece: bytes) -> bool:
        return self.device_baud >= self.noisy_from and len(piece) > 200

    def _say(self, message: Message, *, numbered: bool = True) -> None:
        if numbered:
            message = {**message, "s": self._next}
            self._next += 1
        encoded = frame(message)
        if self.baud == self.device_baud and not self._is_damaged(encoded) and not self._loses(f"say {message['t']}"):
            self._outgoing += encoded
        else:
            self._outgoing += b"\x81\x13\x55"

    def restart(self) -> None:
        self._last = self._next = 0
        offer = {"br": struct.pack(f"<{len(self.rates)}I", *self.rates)} if self.rates else {}
        self._say({"t": "hello", **HELLO, **offer})

    def _take(self, message: Message) -> None:
        number = message["s"]
        if message["t"] == "hello":
            self.restart()
        elif number == self._last:
            self._say({"t": "ack", "a": number}, numbered=False)
        elif number != self._last + 1:
            self._say({"t": "error", "c": "sequence", "p": "frame", "m": "not next", "a": number})
        else:
            self._last = number
            self._say({"t": "ack", "a": number}, numbered=False)
            self._execute(message)

    def _execute(self, message: Message) -> None:
        if message["t"] == "reset":
            self.resets += 1
            self.device_baud = self.rates[0]
            self.restart()
        elif message["t"] == "put":
            self.blobs += 1
        elif "d" in message:
            assert message["b"] == self.device_baud
            self.probed_bytes += len(message["d"])
            self._say({"t": "baud", "b": message["b"], "d": message["d"]})
        else:
            assert message["b"] in self.rates
            self.device_baud = message["b"]


def session(board: Board) -> Session:
    return Session(board, acknowledge_s=0.0, attempts=3)


def test_the_fastest_common_rate_is_tried_before_it_is_used() -> None:
    board = Board()
    hello = session(board).open()
    assert hello.baud_rates == RATES
    assert board.baud == board.device_baud == 921600
    assert board.changes == [921600]
    assert board.probed_bytes == 2048


@pytest.mark.parametrize(("limit", "agreed"), [(921599, 460800), (230400, 230400), (200000, 115200), (115200, 115200)])
def test_the_hosts_limit_holds(limit: int, agreed: int) -> None:
    board = Board(max_baud=limit)
    session(board).open()
    assert board.baud == board.device_baud == agreed


@pytest.mark.parametrize(("noisy_from", "agreed"), [(900000, 460800), (460800, 230400), (230400, 115200)])
def test_a_rate_that_damages_frames_is_given_up_for_the_next(noisy_from: int, agreed: int) -> None:
    board = Board(noisy_from=noisy_from)
    tried = session(board)
    tried.open(0.4)
    assert board.baud == board.device_baud == agreed
    # It is not tried again on this port.
    before = list(board.changes)
    session(board).open(0.4)
    assert board.changes == before


def test_a_board_that_does_not_go_along_is_met_at_the_first_rate() -> None:
    board = Board(rates=(115200, 921600))
    execute = board._execute
    board._execute = lambda message: None if message["t"] == "baud" else execute(message)  # type: ignore[method-assign]
    session(board).open(0.4)
    assert board.baud == board.device_baud == 115200
    assert board.changes == [921600, 115200]


@pytest.mark.parametrize("lost", [["baud"], ["say ack"], ["say baud"], ["say ack", "say ack"]])
def test_a_lost_frame_costs_nothing_but_perhaps_the_rate(lost: list[str]) -> None:
    board = Board(rates=(115200, 921600))
    board.lost = list(lost)
    opened = session(board)
    hello = opened.open(0.4)
    assert opened.hello == hello
    assert board.baud == board.device_baud
    opened.put("samples", b"")
    assert board.blobs == 1


def test_a_lost_acknowledgement_does_not_cost_the_rate() -> None:
    board = Board()
    board.lost = ["say ack"]
    session(board).open(0.4)
    assert board.baud == 921600


def test_firmware_without_rates_is_left_alone() -> None:
    board = Board(rates=())
    assert session(board).open().baud_rates == ()
    assert board.changes == []


def test_a_stream_without_rates_is_left_alone() -> None:
    board = Board()

    class Plain:
        name = "plain"
        read, write, close = board.read, board.write, board.close

    assert Session(Plain(), acknowledge_s=0.0).open().baud_rates == RATES
    assert board.device_baud == 115200


@given(st.binary(max_size=20))
def test_rates_in_hello_are_whole_numbers(packed: bytes) -> None:
    board = Board()
    board.restart = lambda: board._say({"t": "hello", **HELLO, "br": packed})  # type: ignore[method-assign]
    board.max_baud = 115200
    if len(packed) % 4:
        with pytest.raises(ProtocolError, match=rf"'br' has {len(packed)} bytes, expected a multiple of 4"):
            session(board).open()
    else:
        assert session(board).open().baud_rates == struct.unpack(f"<{len(packed) // 4}I", packed)


def test_a_second_session_goes_on_at_the_rate_of_the_first() -> None:
    board = Board()
    session(board).open()
    session(board).open()
    assert board.changes == [921600]


def test_a_board_left_at_a_fast_rate_comes_back_to_a_host_that_starts_anew() -> None:
    board = Board()
    session(board).open()
    board.baud = 115200
    board.max_baud = 115200
    session(board).open(0.8)
    assert board.device_baud == 115200


def test_a_board_that_was_reset_is_met_at_its_first_rate() -> None:
    board = Board()
    session(board).open()
    board.device_baud, board.stays = 115200, True
    session(board).open(0.8)
    assert board.changes == [921600, 115200, 921600]


def test_a_soft_reset_says_hello_where_the_host_listens() -> None:
    board = Board()
    opened = session(board)
    opened.open()
    opened.reset()
    assert board.changes == [921600, 115200]
    opened.open(ask=False)
    assert (board.resets, board.baud) == (1, 921600)


def test_leaving_puts_the_first_rate_back() -> None:
    board = Board()
    left = session(board)
    left.leave()
    left.open()
    left.leave()
    assert board.changes == [921600, 115200]
    assert board.device_baud == 115200
    left.leave()
    assert len(board.changes) == 2


def test_leaving_a_board_that_hangs_takes_no_acknowledgement() -> None:
    board = Board()
    left = session(board)
    left.open()
    board._take = lambda message: None  # type: ignore[method-assign]
    left.leave()
    assert board.baud == 115200


def test_a_board_that_hangs_at_a_rate_is_an_error() -> None:
    board = Board(rates=(115200, 921600), noisy_from=900000)
    board.stays = True
    with pytest.raises(LabError) as error:
        session(board).open(0.2)
    assert isinstance(error.value, Hang | TransportError)
    assert board.baud == 115200


# ---- ports that go and come back ------------------------------------------------------------------------------------


class GoingPort(Board):
    """A board on USB: its port goes away with every reset and comes back; reads and writes fail meanwhile."""

    def __init__(self) -> None:
        super().__init__(rates=())
        self.gone = False
        self.comes_back = True
        self.reopened: list[float] = []

    def write(self, data: bytes) -> None:
        self._there()
        super().write(data)

    def read(self, timeout_s: float) -> bytes:
        self._there()
        return super().read(timeout_s)

    def reopen(self, timeout_s: float) -> None:
        self.reopened.append(timeout_s)
        if not self.comes_back:
            raise TransportError("did not come back", transient=True)
        self.gone = False
        self._incoming = self._outgoing = b""

    def _there(self) -> None:
        if self.gone:
            raise TransportError("model broke", transient=True)

    def _execute(self, message: Message) -> None:
        self.gone = True
        self._last = self._next = 0
        self.resets += 1


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that broke gives its peer a second to say that it died; the models have nobody to say so."""
    monkeypatch.setattr("lab.wire_link._DEATH_NOTICE_TRIES", 1)


def test_a_soft_reset_takes_the_port_away_and_the_session_goes_on() -> None:
    board = GoingPort()
    opened = session(board)
    opened.open()
    opened.reset()
    assert board.gone
    opened.open(ask=False)
    assert board.resets == 1
    assert len(board.reopened) == 1
    assert 0 < board.reopened[0] <= 5.0
    assert opened.hello.board == "model-board"


def test_a_port_that_went_away_in_between_is_opened_anew() -> None:
    board = GoingPort()
    opened = session(board)
    opened.open()
    board.gone = True
    with pytest.raises(TransportError, match="model broke"):
        opened.put("samples", b"x")
    assert board.reopened == []
    session(board).open()
    assert len(board.reopened) == 1


def test_a_port_that_stays_away_is_the_error_of_opening() -> None:
    board = GoingPort()
    board.gone, board.comes_back = True, False
    with pytest.raises(TransportError, match="did not come back"):
        session(board).open(0.2)
    assert len(board.reopened) == 1


def test_a_dead_peer_says_why_before_anything_is_opened_anew() -> None:
    board = GoingPort()
    board.gone = True

    def dead() -> None:
        raise DeviceError("it died")

    with pytest.raises(DeviceError, match="it died"):
        Session(board, board_is_alive=dead, acknowledge_s=0.0).open(0.2)
    assert board.reopened == []


def test_a_stream_that_cannot_be_opened_anew_breaks_at_once() -> None:
    board = GoingPort()
    board.gone = True

    class Plain:
        name = "plain"
        read: Callable[[float], bytes] = board.read
        write, close = board.write, board.close

    with pytest.raises(TransportError, match="model broke"):
        Session(Plain(), acknowledge_s=0.0).open(0.2)
