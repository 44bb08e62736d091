"""Tokens at the device: a runner refuses whoever held it before, and its holder is not disturbed by that."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers.shared_board import SharedLine, shared_board
from helpers.toolchain import SAMPLE_BYTES, needs_host_compiler, tiny_output

from lab.errors import LeaseLost, ProtocolError
from lab.events import Job, ResultEvent
from lab.lease import lease
from lab.wire import Session
from lab.wire_frames import FrameDecoder, encode_frame
from lab.wire_messages import Value

SAMPLE = bytes(range(SAMPLE_BYTES))


@dataclass
class Ticket:
    """A lease of which this process believes that it still holds."""

    token: int

    def check(self) -> None:
        """Nothing on this host says otherwise."""


class Tap:
    """The line with a look at what is written, and words put into the device's mouth."""

    def __init__(self, line: SharedLine) -> None:
        self.name = line.name
        self.sent: list[dict[str, Value]] = []
        self.says = b""
        self._line = line
        self._decoder = FrameDecoder()

    def write(self, data: bytes) -> None:
        self.sent += self._decoder.feed(data)
        self._line.write(data)

    def read(self, timeout_s: float) -> bytes:
        said, self.says = self.says, b""
        return said or self._line.read(timeout_s)

    def close(self) -> None:
        pass


def opened(line: SharedLine | Tap, token: int | None) -> Session:
    session = Session(line, fence=None if token is None else Ticket(token))
    session.open(20.0)
    return session


def works(session: Session) -> bool:
    session.put("samples", SAMPLE)
    events = session.run(Job("infer", SAMPLE, 1, quiet_us=0))
    return [event.data for event in events if isinstance(event, ResultEvent)] == [tiny_output(SAMPLE)]


@pytest.fixture
def line() -> Iterator[SharedLine]:
    with shared_board("board") as one:
        yield one


@needs_host_compiler
def test_a_runner_refuses_all_that_an_older_lease_says(line: SharedLine) -> None:
    old = opened(line, 7)
    old.put("samples", SAMPLE)
    new = opened(line, 2**63 + 5)
    refused = rf"board refuses the lease of this process \(token 7\): it has been used with token {2**63 + 5} since"
    for use in (lambda: old.put("samples", b"x"), lambda: list(old.run(Job("forget", b"", 1))), old.reset, old.open):
        with pytest.raises(LeaseLost, match=refused):
            use()
        # Neither its numbers nor what lies on the device have changed.
        assert works(new)


@needs_host_compiler
def test_the_same_lease_and_a_newer_one_may_open_again_and_nobody_needs_one(line: SharedLine) -> None:
    assert works(opened(line, 7))
    assert works(opened(line, 7))
    assert works(opened(line, None)), "a console, which holds no lease"
    assert works(opened(line, 8))
    with pytest.raises(LeaseLost):
        opened(line, 7)


@needs_host_compiler
def test_a_reset_forgets_which_is_why_only_the_holder_may_ask_for_one(line: SharedLine) -> None:
    old, new = opened(line, 7), opened(line, 8)
    with pytest.raises(LeaseLost):
        old.reset()
    new.reset()
    assert works(opened(line, 7)), "as after a loss of all records: the first token that comes counts"
    assert works(opened(line, 8))


@needs_host_compiler
def test_a_refusal_that_somebody_else_was_given_is_not_mine(line: SharedLine) -> None:
    """On one line the holder may read what the other was answered, in the middle of what it does."""
    opened(line, 7)
    new = opened(line, 8)
    line.write(encode_frame({"t": "put", "s": 1, "tk": 7, "n": "samples", "z": 1, "o": 0, "d": b"x"}))
    assert works(new)
    with pytest.raises(LeaseLost):
        opened(line, 7)


@needs_host_compiler
def test_a_holder_that_hung_is_refused_by_the_device_itself(line: SharedLine, tmp_path: Path) -> None:
    """It is stopped in the middle, passed over, goes on, and looks at no record before it goes on talking."""
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _hang_and_go_on(line, tmp_path, ready[1], go[0])
    try:
        assert os.read(ready[0], 1) == b"r"
        os.kill(child, signal.SIGSTOP)
        with lease("board", "next", 60, folder=tmp_path) as held:
            mine = Session(line, fence=held)
            mine.open(20.0)
            os.write(go[1], b"g")
            os.kill(child, signal.SIGCONT)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "it was obeyed"
            child = 0
            assert works(mine)
    finally:
        if child:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _hang_and_go_on(line: SharedLine, folder: Path, ready: int, go: int) -> None:
    status = 1
    try:
        with lease("board", "hangs", ttl_s=0.3, folder=folder) as held:
            session = Session(line, fence=held)
            session.open(20.0)
            os.write(ready, b"r")
            os.read(go, 1)
            try:
                session.put("samples", b"from yesterday")
            except LeaseLost:
                status = 0
    finally:
        os._exit(status)


# ---- the host's side -------------------------------------------------------------------------------------------------


@needs_host_compiler
@pytest.mark.parametrize("token", [None, 41])
def test_every_message_names_the_lease_where_there_is_one(line: SharedLine, token: int | None) -> None:
    tap = Tap(line)
    session = opened(tap, token)
    assert works(session)
    session.reset()
    assert {str(message["t"]): message.get("tk") for message in tap.sent} == dict.fromkeys(
        ("hello", "put", "run", "reset"), token
    )


@needs_host_compiler
def test_who_holds_the_device_now_is_told_where_this_host_knows_it(line: SharedLine) -> None:
    class Known(Ticket):
        def check(self) -> None:
            raise LeaseLost("device 'board' was taken over from this process: it is now held by ada@desk")

    old = Session(line, fence=Known(3))
    old.open(20.0)
    opened(line, 4)
    with pytest.raises(LeaseLost, match="now held by ada@desk"):
        old.put("samples", b"abc")


@needs_host_compiler
@pytest.mark.parametrize("newest", [None, "five", -1])
def test_a_refusal_that_makes_no_sense(line: SharedLine, newest: int | str | None) -> None:
    tap = Tap(line)
    session = opened(tap, 3)
    tap.says = encode_frame({"t": "error", "c": "stale-lease", "tk": 3, "n": newest})
    with pytest.raises(ProtocolError, match="'n' is"):
        session.put("samples", b"abc")
