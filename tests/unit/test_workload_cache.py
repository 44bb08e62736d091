"""The content-addressed cache: keys, round trips, damage, full disks, two processes at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import progress
from lab.errors import ConfigError, WorkloadError
from lab.workloads import cache

ENTRY = cache.Entry('{"name": "µ"}', {"a": np.arange(6, dtype=np.int8).reshape(2, 3), "b": np.array([0.5, np.inf])})
KEY = cache.key({"data": "1"}, [])


def never() -> cache.Entry:
    raise AssertionError("must come from the cache")


def assert_same(got: cache.Entry) -> None:
    assert got.document == ENTRY.document
    assert got.arrays.keys() == ENTRY.arrays.keys()
    for name, array in ENTRY.arrays.items():
        np.testing.assert_array_equal(got.arrays[name], array)
        assert got.arrays[name].dtype == array.dtype


def only_entry(folder: Path) -> Path:
    (path,) = folder.glob("*.npz")
    return path


def test_second_time_comes_from_the_file(tmp_path: Path) -> None:
    assert_same(cache.obtain(tmp_path / "new" / "folder", "x", KEY, lambda: ENTRY))
    assert_same(cache.obtain(tmp_path / "new" / "folder", "x", KEY, never))


def test_another_key_is_another_entry(tmp_path: Path) -> None:
    cache.obtain(tmp_path, "x", KEY, lambda: ENTRY)
    other = cache.Entry("{}", {})
    assert cache.obtain(tmp_path, "x", cache.key({"data": "2"}, []), lambda: other).document == "{}"
    assert_same(cache.obtain(tmp_path, "x", KEY, never))


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_entry_is_made_again(tmp_path: Path, keep: float) -> None:
    cache.obtain(tmp_path, "x", KEY, lambda: ENTRY)
    path = only_entry(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep if keep >= 1 else keep * len(data))])
    assert_same(cache.obtain(tmp_path, "x", KEY, lambda: ENTRY))
    assert_same(cache.obtain(tmp_path, "x", KEY, never))


def test_a_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache.obtain(tmp_path, "x", KEY, lambda: ENTRY)
    path = only_entry(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b'"name"')] ^= 4
    path.write_bytes(data)
    assert_same(cache.obtain(tmp_path, "x", KEY, lambda: ENTRY))


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> cache.Entry:
        raise WorkloadError("diverged")

    with pytest.raises(WorkloadError, match="diverged"):
        cache.obtain(tmp_path, "x", KEY, fail)
    assert not list(tmp_path.glob("*.npz"))
    assert_same(cache.obtain(tmp_path, "x", KEY, lambda: ENTRY))


def test_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left on device") as caught:
        cache.obtain(tmp_path, "x", KEY, lambda: ENTRY)
    assert "LAB_CACHE" in caught.value.hint
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/x-\w+\.npz cannot be written") as caught:
        cache.obtain(tmp_path / "file", "x", KEY, lambda: ENTRY)
    assert "LAB_CACHE" in caught.value.hint


def test_an_error_of_the_producer_is_not_blamed_on_the_cache(tmp_path: Path) -> None:
    def fail() -> cache.Entry:
        raise FileNotFoundError("data")

    with pytest.raises(FileNotFoundError, match="data"):
        cache.obtain(tmp_path, "x", KEY, fail)


def test_the_second_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    started, waiting = threading.Event(), threading.Event()
    lines: list[str] = []
    calls: list[str] = []

    def sink(line: str) -> None:
        lines.append(line)
        waiting.set()

    def slow() -> cache.Entry:
        calls.append("first")
        started.set()
        assert waiting.wait(30)
        return ENTRY

    progress.set_sink(sink)
    try:
        first = threading.Thread(target=lambda: cache.obtain(tmp_path, "x", KEY, slow))
        first.start()
        assert started.wait(30)
        assert_same(cache.obtain(tmp_path, "x", KEY, never))
        first.join()
    finally:
        progress.set_sink(None)
    assert calls == ["first"]
    assert "waiting for another process that prepares x" in lines[0]


def test_of_many_processes_one_produces(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import numpy as np; from lab.workloads import cache\n"
        "folder = Path(sys.argv[1])\n"
        "def produce():\n"
        "    with (folder / 'calls').open('a') as f: f.write('x')\n"
        "    return cache.Entry('{}', {'a': np.arange(200000)})\n"
        "entry = cache.obtain(folder, 'x', 'k', produce)\n"
        "print(int(entry.arrays['a'].sum()))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    printed = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert printed == [str(sum(range(200000)))] * 4
    assert (tmp_path / "calls").read_text() == "x"
    assert (tmp_path / "calls").read_text() == "x"


@given(
    st.dictionaries(st.text(max_size=5), st.text(max_size=5)), st.dictionaries(st.text(max_size=5), st.text(max_size=5))
)
def test_keys_are_equal_exactly_for_equal_parts(one: dict[str, str], other: dict[str, str]) -> None:
    assert (cache.key(one, []) == cache.key(other, [])) == (one == other)


def test_key_follows_the_text_of_the_sources_not_their_order(tmp_path: Path) -> None:
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("a = 1")
    other.write_text("b = 1")
    before = cache.key({}, [one, other])
    assert cache.key({}, [other, one]) == before
    one.write_text("a = 2")
    assert cache.key({}, [one, other]) != before
