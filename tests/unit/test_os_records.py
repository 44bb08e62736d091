"""What devices with an operating system add to records and report, and their runner's images."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from helpers.store_runs import make_run
from helpers.toolchain import built, needs_host_compiler, tiny_model

from lab.build import build
from lab.devices.base import Identity
from lab.devices.hosted import COUNT_BYTES, counted
from lab.environment import EnvironmentLog
from lab.errors import ProtocolError, ToolMissing
from lab.events import Job, LogEvent, MetricEvent, RegionEvent, ResultEvent
from lab.os_records import environment_of, instructions_of, memory_of, reported_of
from measurements.environment import MemoryFigure, Snapshot
from measurements.latency import latency_records
from measurements.record import Layer
from measurements.regression import is_exact
from measurements.report.badges import badges
from measurements.report.lookup import clock_group
from measurements.report.tables import render_latex
from measurements.report.view import page_view


class Plain:
    """A device without an operating system."""

    identity = Identity("plain", "b", "hardware", "", frozenset())


class Watched(Plain):
    """A device with all that is asked of one with an operating system."""

    def measuring(self) -> AbstractContextManager[EnvironmentLog]:
        return nullcontext(EnvironmentLog(lambda moment: Snapshot(moment, 0.0)))

    def process_memory(self) -> list[MemoryFigure]:
        return [MemoryFigure("peak_ram.process", 4096, "a page")]

    def instructions(self, job: Job) -> dict[str, int]:
        return {"inference": 2**53 - 1, "train.forward": 7}


JOB = Job("infer", b"", 1)


def test_a_device_without_an_operating_system_adds_nothing() -> None:
    plain = Plain()
    with environment_of(plain) as log:  # type: ignore[arg-type]
        assert log is None
    assert memory_of(plain, "hardware") == instructions_of(plain, JOB, "hardware") == []  # type: ignore[arg-type]


def test_what_one_with_an_operating_system_adds() -> None:
    watched = Watched()
    with environment_of(watched) as log:  # type: ignore[arg-type]
        assert log is not None
    (memory,) = memory_of(watched, "hardware")  # type: ignore[arg-type]
    assert (memory.region, memory.metric, memory.median) == ("run", "peak_ram.process", 4096.0)
    assert memory.note.startswith("a page")
    records = instructions_of(watched, JOB, "emulated")  # type: ignore[arg-type]
    assert [(one.region, one.median) for one in records] == [("inference", 2.0**53 - 1), ("train.forward", 7.0)]


def test_metrics_of_regions_become_records_and_others_do_not() -> None:
    told = [
        MetricEvent("train.forward/peak_ram.gpu", 8192.0),
        MetricEvent("inference/peak_ram.process", 4096.0),
        MetricEvent("loss", 0.5),
        MetricEvent("inference/mood", 1.0),
    ]
    records = reported_of(told, "hardware")
    assert [(one.region, one.metric, one.unit, one.median) for one in records] == [
        ("train.forward", "peak_ram.gpu", "bytes", 8192.0),
        ("inference", "peak_ram.process", "bytes", 4096.0),
    ]
    assert "max_memory_allocated" in records[0].note


def test_counts_are_whole_numbers_of_eight_bytes() -> None:
    events = [LogEvent("hello"), ResultEvent(0, (2**40 + 1).to_bytes(COUNT_BYTES, "little"), "inference")]
    assert counted(events) == {"inference": 2**40 + 1}
    with pytest.raises(ProtocolError, match="'inference' has 3 bytes, expected 8"):
        counted([ResultEvent(0, b"abc", "inference")])


# ---- the clock of an emulated system ---------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["guest", "monotonic"])
def test_nanoseconds_are_neither_cycles_nor_instructions(clock: str) -> None:
    (latency,) = latency_records([RegionEvent("inference", 0, 0, 2000)] * 2, 1e9, clock, "emulated")
    assert (latency.metric, latency.median) == ("latency", 2e-6)
    assert ("not comparable with hardware" in latency.note) == (clock == "guest")


@pytest.mark.parametrize(
    ("metric", "exact"), [("instructions", True), ("bit_exact", True), ("latency", False), ("peak_ram.process", False)]
)
def test_only_what_its_kernel_does_not_disturb_is_exact(metric: str, exact: bool) -> None:
    assert is_exact(metric, "emulated", "guest") == exact


def test_the_report_keeps_emulated_systems_apart() -> None:
    run = make_run(1)
    provenance = replace(run.provenance, clock="guest", emulator="QEMU 7.2")
    guest = replace(run, provenance=provenance)
    assert clock_group(guest) not in (
        clock_group(replace(run, provenance=replace(provenance, clock="virtual"))),
        clock_group(replace(run, provenance=replace(provenance, clock="dwt", emulator=""))),
    )
    assert [badge.text for badge in badges(guest)][:2] == ["emulated", "virtual time"]
    assert "time of its instructions" in render_latex([guest])


def test_the_summary_of_a_report_leaves_out_no_clock() -> None:
    run = make_run(1)
    kinds = [("virtual", "QEMU 7.2"), ("guest", "QEMU 7.2"), ("monotonic", "QEMU 7.2"), ("monotonic", ""), ("dwt", "")]
    runs = [
        replace(run, provenance=replace(run.provenance, clock=clock, emulator=emulator)) for clock, emulator in kinds
    ]
    groups = page_view(runs, {}, "", ()).groups
    assert [len(group.rows) for group in groups] == [1, 1, 1, 2]
    assert len({group.title for group in groups}) == 4


def test_layers_timed_in_nanoseconds_are_not_shown_as_cycles() -> None:
    run = make_run(1)
    layers = (Layer(0, "conv1", "conv2d", 1000, 64, cycles=2500.0),)
    detail = replace(run.detail, layers=layers)
    shown = {}
    for clock in ("dwt", "guest"):
        timed = replace(run, detail=detail, provenance=replace(run.provenance, clock=clock))
        (one,) = page_view([timed], {}, "", ()).runs
        assert one.layers is not None
        shown[clock] = (one.layers.basis, one.layers.ticks, "2\u202f500 ns in layers" in one.layers.summary)
    assert shown == {"dwt": ("cycles", "cycles", False), "guest": ("ns", "ns", True)}


# ---- images ----------------------------------------------------------------------------------------------------------


@needs_host_compiler
@pytest.mark.parametrize(
    ("board", "machine"),
    [("linux-aarch64", "EM_AARCH64"), ("linux-armv7", "EM_ARM"), ("linux-x86-64", "EM_X86_64")],
)
def test_images_need_nothing_of_the_device(board: str, machine: str) -> None:
    try:
        image = built(board)
    except ToolMissing as missing:
        pytest.skip(missing.message)
    with image.path.open("rb") as stream:
        elf = ELFFile(stream)
        assert elf["e_machine"] == machine
        assert not [segment for segment in elf.iter_segments() if segment["p_type"] in ("PT_INTERP", "PT_DYNAMIC")]


@pytest.mark.parametrize(
    ("board", "compiler", "package"),
    [
        ("linux-aarch64", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
        ("linux-armv7", "arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf"),
        ("linux-x86-64", "x86_64-linux-gnu-gcc", "gcc"),
    ],
)
@pytest.mark.usefixtures("no_tools_of_pip")
def test_a_compiler_that_is_missing(
    board: str, compiler: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolMissing, match=f"{compiler} is not installed") as caught:
        build(tiny_model(), board, cache=tmp_path)
    assert f"apt-get install {package}" in caught.value.hint
