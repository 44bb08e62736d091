"""Faults of a link: how they are set, kept in their file, and counted down."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.emulators.probe.faults import (
    ALWAYS,
    SOUND,
    BitFlip,
    LinkFaults,
    LinkState,
    TransferFault,
    change,
    read_state,
)
from lab.emulators.probe.link import Link
from lab.emulators.probe.signals import Unplugged

_transfers = st.builds(
    TransferFault,
    st.sampled_from(["no-ack", "wait", "fault", "unplug"]),
    st.integers(-1, 5),
    st.integers(0, 9),
    st.integers(-1, 2**32 - 1),
    st.integers(1, 1 << 20),
)
_states = st.builds(
    LinkState,
    st.lists(_transfers, max_size=3).map(tuple),
    st.lists(st.builds(BitFlip, st.integers(0, 2**32 - 1), st.integers(0, 7)), max_size=3).map(tuple),
    st.floats(0, 1),
    st.sampled_from(["open", "refuse", "drop"]),
    st.booleans(),
)


@given(_states)
def test_every_state_survives_its_file(tmp_path_factory: pytest.TempPathFactory, state: LinkState) -> None:
    path = tmp_path_factory.mktemp("faults") / "one.faults"
    change(path, lambda _: state)
    assert read_state(path) == state
    assert path.exists() == (state != SOUND)


def test_calls_add_up_and_clear_takes_all_away(tmp_path: Path) -> None:
    faults = LinkFaults(tmp_path / "one.faults")
    assert faults.state == SOUND
    faults.wait(3)
    faults.fault(address=0x20000000, size=8)
    faults.no_ack(after_transfers=7)
    faults.flip_bit(0x10, 3)
    faults.flip_bit(0x11, 0)
    faults.slow(0.5)
    faults.lock_flash()
    assert faults.state == LinkState(
        (
            TransferFault("wait", 3),
            TransferFault("fault", address=0x20000000, size=8),
            TransferFault("no-ack", after_transfers=7),
        ),
        (BitFlip(0x10, 3), BitFlip(0x11, 0)),
        0.5,
        "refuse",
    )
    faults.clear()
    assert faults.state == SOUND
    assert not (tmp_path / "one.faults").exists()


_near = st.integers(0, 100)


@given(address=_near, size=st.sampled_from([1, 2, 4]), first=_near, length=st.integers(1, 9))
def test_a_fault_at_an_address_hits_the_accesses_that_overlap_it(
    address: int, size: int, first: int, length: int
) -> None:
    overlap = bool({*range(address, address + size)} & {*range(first, first + length)})
    assert TransferFault("wait", address=first, size=length).hits(address, size) == overlap


def test_a_fault_at_an_address_hits_memory_only_and_one_without_hits_all() -> None:
    assert not TransferFault("wait", address=0).hits(-1, 0)
    assert TransferFault("wait").hits(-1, 0)
    assert TransferFault("wait").hits(0x20000000, 4)


def _happens(link: Link, transfers: int) -> list[str]:
    link.begin_packet()
    return [link.next_transfer(-1, 0) or "ok" for _ in range(transfers)]


def test_a_fault_happens_so_often_after_so_many_transfers(tmp_path: Path) -> None:
    path = tmp_path / "one.faults"
    LinkFaults(path).wait(2, after_transfers=3)
    link = Link(path)
    assert _happens(link, 7) == ["ok", "ok", "ok", "wait", "wait", "ok", "ok"]
    assert LinkFaults(path).state == SOUND
    assert not link.counts


def test_transfers_are_counted_over_packets(tmp_path: Path) -> None:
    LinkFaults(tmp_path / "f").fault(after_transfers=3)
    link = Link(tmp_path / "f")
    assert _happens(link, 2) + _happens(link, 2) == ["ok", "ok", "ok", "fault"]


def test_always_is_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "one.faults"
    LinkFaults(path).no_ack(ALWAYS)
    assert _happens(Link(path), 5) == ["no-ack"] * 5
    assert _happens(Link(path), 1) == ["no-ack"]


def test_what_is_spent_in_one_process_is_spent_for_the_next(tmp_path: Path) -> None:
    path = tmp_path / "one.faults"
    LinkFaults(path).fault(2)
    assert _happens(Link(path), 1) == ["fault"]
    assert _happens(Link(path), 2) == ["fault", "ok"]


def test_unplugging_lasts_until_it_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "one.faults"
    LinkFaults(path).unplug(after_transfers=1)
    link = Link(path)
    assert _happens(link, 1) == ["ok"]
    with pytest.raises(Unplugged):
        link.next_transfer(-1, 0)
    for one in (link, Link(path)):
        with pytest.raises(Unplugged):
            one.begin_packet()
    LinkFaults(path).clear()
    assert _happens(link, 1) == ["ok"]


def test_writers_do_not_lose_what_others_set(tmp_path: Path) -> None:
    faults = LinkFaults(tmp_path / "one.faults")

    def work(number: int) -> None:
        for bit in range(8):
            faults.flip_bit(number, bit)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {BitFlip(number, bit) for number in range(4) for bit in range(8)}
    assert set(faults.state.flips) == expected
    assert len(faults.state.flips) == len(expected)
