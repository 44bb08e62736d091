"""Peak memory and memory limits of real processes, by this computer's own kernel."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.stand_in_device import StandIn

from lab.environment import Hands, MemoryWatch
from lab.errors import ConfigError, OutOfMemory

MEGABYTE = 1 << 20
HOG = (
    "import sys; block = bytearray(int(sys.argv[1])); block[::4096] = b'x' * len(block[::4096]);"
    "print(len(block), flush=True); sys.stdin.read()"
)


@pytest.fixture
def device(tmp_path: Path) -> StandIn:
    return StandIn(tmp_path, uid=None)


@pytest.fixture
def watch(device: StandIn) -> Iterator[MemoryWatch]:
    watch = MemoryWatch(Hands(device), str(device.home))
    yield watch
    watch.close()


class Hog:
    """A process that touches so many bytes and then waits until it is let go."""

    def __init__(self, watch: MemoryWatch, size_bytes: int, own_bytes: int = 0) -> None:
        argv = watch.wrap([sys.executable, "-c", HOG, str(size_bytes)], own_bytes=own_bytes)
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe)

    def __enter__(self) -> Hog:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.returncode is None:
            self.process.communicate()

    def touched(self) -> bytes:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def in_group(watch: MemoryWatch) -> None:
    if watch.version == "none":
        pytest.skip(f"this computer lets the lab make no control group: {watch.notes[0]}")


def test_the_peak_is_what_the_process_touched(watch: MemoryWatch) -> None:
    """Two sizes: their difference is known to the page, whatever the interpreter itself needs."""
    peaks = []
    for size in (8 * MEGABYTE, 40 * MEGABYTE):
        with Hog(watch, size) as hog:
            assert int(hog.touched()) == size
            (figure,) = watch.figures()
        peaks.append(figure.size_bytes)
        assert figure.metric == "peak_ram.process"
    assert peaks[0] > 8 * MEGABYTE
    assert peaks[1] - peaks[0] == pytest.approx(32 * MEGABYTE, rel=0.1)


def test_a_limit_is_kept_and_breaking_it_is_out_of_memory_with_the_numbers(device: StandIn) -> None:
    probe = MemoryWatch(Hands(device), str(device.home))
    probe.wrap(["true"])
    in_group(probe)
    probe.close()
    limit = 32 * MEGABYTE
    watch = MemoryWatch(Hands(device), str(device.home), limit)
    with Hog(watch, MEGABYTE) as hog:
        hog.touched()
        assert watch.out_of_memory() is None
        (figure,) = watch.figures()
        assert figure.size_bytes < limit
        assert figure.note.endswith(f"limited to {limit} bytes")
    with Hog(watch, 64 * MEGABYTE) as hog:
        assert hog.touched() == b""
    assert hog.process.returncode == -9
    error = watch.out_of_memory()
    assert isinstance(error, OutOfMemory)
    assert f"the limit is {limit} bytes; oom_kill 1" in str(error)
    used = int(error.message.partition("it used ")[2].split()[0])
    assert limit * 0.9 < used <= limit
    watch.close()


def test_without_rights_the_process_itself_is_asked(device: StandIn) -> None:
    watch = MemoryWatch(Hands(device, may=False), str(device.home))
    with Hog(watch, 40 * MEGABYTE) as hog:
        hog.touched()
        (figure,) = watch.figures()
    assert watch.version == "none"
    assert 40 * MEGABYTE < figure.size_bytes < 120 * MEGABYTE
    assert "VmHWM" in figure.note
    assert "without the rights of root" in figure.note
    assert watch.figures() == [], "the process has ended"
    assert watch.out_of_memory() is None


def test_a_limit_without_rights_is_refused(device: StandIn) -> None:
    with pytest.raises(ConfigError, match="memory_limit_bytes: 1048576 was asked for, and no control group") as caught:
        MemoryWatch(Hands(device, may=False), str(device.home), MEGABYTE).wrap(["true"])
    assert "cgroup_enable=memory" in caught.value.hint


def budget(device: StandIn, limit_bytes: int) -> MemoryWatch:
    return MemoryWatch(Hands(device, may=False), str(device.home), limit_bytes, without_rights=True)


def test_a_budget_without_rights_is_compared_with_what_the_process_used(device: StandIn) -> None:
    limit = 40 * MEGABYTE
    watch = budget(device, limit)
    with Hog(watch, 4 * MEGABYTE) as hog:
        hog.touched()
        assert watch.over_budget() is None
        (figure,) = watch.figures()
    assert f"limited to {limit} bytes: VmHWM is compared with it" in figure.note
    # What it has from its start, and need not touch, is not refused to it; what it touched of it counts.
    with Hog(watch, 48 * MEGABYTE, own_bytes=48 * MEGABYTE) as hog:
        assert int(hog.touched()) == 48 * MEGABYTE
        error = watch.over_budget()
        assert error is not None
        refused = watch.with_numbers(OutOfMemory("the device reported 'overflow'"))
    numbers = rf"used (\d+) bytes at most \(VmHWM\), the limit is {limit} bytes"
    words = re.fullmatch(f"stand-in: the runner {numbers}", error.message)
    assert words is not None
    assert 48 * MEGABYTE < int(words[1]) < 128 * MEGABYTE
    assert re.fullmatch(f"the device reported 'overflow'; it {numbers}", refused.message)
    assert watch.with_numbers(error) is error
    watch.close()


def test_a_runaway_without_rights_is_refused_memory_and_told(device: StandIn) -> None:
    limit = 40 * MEGABYTE
    watch = budget(device, limit)
    with Hog(watch, 400 * MEGABYTE) as hog:
        assert hog.touched() == b""
        complaint = hog.process.communicate()[1].decode()
    error = watch.out_of_memory(complaint)
    assert isinstance(error, OutOfMemory)
    assert f"was refused memory and ended; the limit is {limit} bytes" in error.message
    assert error.message.endswith("MemoryError")
    assert watch.out_of_memory("Segmentation fault") is None, "nothing says that it was for its memory"
    watch.close()


def test_a_group_whose_process_is_only_just_dying_does_not_stay_behind(watch: MemoryWatch) -> None:
    with Hog(watch, 64 * MEGABYTE) as hog:
        in_group(watch)
        hog.touched()
        place = Path(watch.folder)
        hog.process.kill()
        watch.close()
        assert not place.exists()


def test_groups_do_not_stay_behind(device: StandIn, watch: MemoryWatch) -> None:
    watch.wrap(["true"])
    in_group(watch)
    place = Path(watch.folder)
    assert place.is_dir()
    watch.wrap(["true"])
    assert not place.exists()
    watch.close()
    assert not Path(watch.folder or place).exists()
    watch.close()
