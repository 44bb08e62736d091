"""Errors raised in the main thread from outside: time limits, shields, nesting."""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from lab import interrupt
from lab.errors import Hang, InfrastructureError
from lab.interrupt import interrupt_main, interruptible, limited, shielded


def _late() -> Hang:
    return Hang("late")


def _blocked() -> None:
    """A native wait without a time-out."""
    ctypes.CDLL(None).pause()


def test_a_native_call_that_blocks_is_interrupted() -> None:
    with pytest.raises(Hang, match="late"), limited(0.05, _late):
        _blocked()


def test_so_is_a_read_that_nobody_answers() -> None:
    read, write = os.pipe()
    with pytest.raises(Hang), limited(0.05, _late):
        os.read(read, 1)
    os.close(read)
    os.close(write)


def test_what_ends_in_time_is_left_alone_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(50):
        with limited(60.0, _late):
            pass
    assert set(threading.enumerate()) <= before


def test_no_limit_is_no_limit() -> None:
    with limited(None, _late):
        pass


def test_an_error_inside_passes_as_it_is() -> None:
    with pytest.raises(ValueError, match="own"), limited(60.0, _late):
        raise ValueError("own")


def test_the_inner_of_two_limits_ends_the_inner_part_only() -> None:
    seen = []
    with limited(60.0, lambda: Hang("outer")):
        with pytest.raises(Hang, match="inner"), limited(0.05, lambda: Hang("inner")):
            _blocked()
        seen.append("went on")
    assert seen == ["went on"]


def _climb(rungs: list[int]) -> None:
    """Each rung catches what the one before it raised, and would block as well."""
    with limited(0.05, lambda: InfrastructureError("over"), ladder=True):
        for rung in range(3):
            rungs.append(rung)
            try:
                _blocked()
            except Exception:
                continue


def test_a_ladder_that_swallows_errors_does_not_swallow_its_limit() -> None:
    rungs: list[int] = []
    with pytest.raises(InfrastructureError, match="over"):
        _climb(rungs)
    assert rungs == [0]


def _clean_up(done: list[str]) -> None:
    with limited(0.05, _late):
        with shielded():
            while interrupt._pending.error is None:
                os.sched_yield()
            done.append("cleaned up")
        done.append("never")


def test_what_is_shielded_is_done_before_the_limit_ends_it() -> None:
    done: list[str] = []
    with pytest.raises(Hang):
        _clean_up(done)
    assert done == ["cleaned up"]


def test_in_another_thread_there_is_no_limit_and_no_harm() -> None:
    ended = []

    def work() -> None:
        with limited(0.01, _late):
            ended.append("went on")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["went on"]


def test_nobody_takes_an_error_outside_of_a_context() -> None:
    assert not interrupt_main(_late())
    with interruptible():
        pass
    assert not interrupt_main(_late())
