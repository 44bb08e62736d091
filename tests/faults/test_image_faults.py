"""Faults of the cache of builds: what a device gets is what was asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from faults.catalogue import of
from helpers import faulty_workload, tiny_workload
from helpers.fault_bench import FaultBench, hold
from helpers.toolchain import entry, needs_qemu

from lab.artifact import Artifact
from lab.build import build
from lab.devices.connect import connected
from lab.paths import cache_dir

pytestmark = needs_qemu

FAULTS = {fault.name: fault for fault in of("Images and builds")}
BOARD = "mps2-an386"


def corrupt(image: Artifact) -> None:
    content = bytearray(image.path.read_bytes())
    content[len(content) // 2] ^= 0x10
    image.path.write_bytes(content)


def put_another_in_its_place(image: Artifact) -> None:
    other = build(tiny_workload.model(), BOARD, cache=cache_dir())
    assert other.build_id != image.build_id
    shutil.rmtree(image.path.parent)
    shutil.copytree(other.path.parent, image.path.parent)


INJECTIONS: dict[str, Callable[[Artifact], None]] = {
    "corrupted artifact": corrupt,
    "stale cache": put_another_in_its_place,
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that nobody else uses."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", INJECTIONS)
def test_a_fault_of_the_cache_ends_as_the_catalogue_says(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_CACHE", str(cache))
    INJECTIONS[name](image := build(faulty_workload.model(), BOARD, cache=cache))
    found = entry("m4f")
    found = replace(found, config=found.config.model_copy(update={"meter": None}))
    with connected(found, cache) as device:
        bench = FaultBench(found, device, tmp_path)
        after = bench.suffer(repeats=1)
        # The same to the byte: the build before has left no trace.
        assert (bench.image.build_id, bench.image.digest) == (image.build_id, image.digest)
        hold(FAULTS[name], bench, after)


def test_every_fault_of_an_image_is_met() -> None:
    """That of the wrong build id needs a board that somebody flashes: test_serial_faults.py."""
    assert {*FAULTS} == {*INJECTIONS, "wrong build id"}
