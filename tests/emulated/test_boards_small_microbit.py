"""The micro:bit that QEMU emulates: a Cortex-M0 with 16 KB of RAM runs the lab's firmware, exactly counted, and says
why it failed with what Armv6-M knows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from helpers import tiny_workload
from helpers.strict_chips import Nrf52840, Rp2040
from helpers.toolchain import (
    SAMPLE_BYTES,
    board_kind,
    built,
    counting_plugin,
    needs_qemu,
    running,
    tiny_model,
    tiny_output,
)
from torch import nn

from lab.artifact import Artifact
from lab.build import build
from lab.compiler import compile_with_reference
from lab.compiler.model import CompiledModel, Int8Array
from lab.devices.connect import connected
from lab.emulators.qemu import Qemu
from lab.errors import CompileError, Crash, OutOfMemory
from lab.events import Done, Job, RegionEvent, ResultEvent
from lab.inventory import load_bench
from lab.paths import cache_dir
from lab.postmortem.image import Image
from lab.runs import deploy, measure
from lab.transports.base import ByteStream
from lab.wire import Session
from measurements.store import Store

pytestmark = needs_qemu

SAMPLES = bytes((i * 37) & 0xFF for i in range(3 * SAMPLE_BYTES))
RAM_BYTES = 16 * 1024


@pytest.fixture(scope="module")
def image() -> Artifact:
    return built("microbit")


@pytest.fixture(scope="module")
def board(image: Artifact) -> Iterator[tuple[Qemu, Session]]:
    """One instance for the tests that leave it as it was."""
    with running("microbit", image) as (qemu, _, session):
        yield qemu, session


def clock_cycles(session: Session, iterations: int, repeats: int = 1) -> list[int]:
    events = session.run(Job("clock", b"", iterations, repeats=repeats))
    return [event.cycles for event in events if isinstance(event, RegionEvent)]


def outputs_of(session: Session, samples: bytes, count: int) -> list[bytes]:
    session.put("samples", samples)
    return [event.data for event in session.run(Job("infer", b"", count)) if isinstance(event, ResultEvent)]


def test_it_says_what_it_is(board: tuple[Qemu, Session], image: Artifact) -> None:
    hello = board[1].hello
    assert (hello.board, hello.clock, hello.clock_hz) == ("microbit", "virtual", board_kind("microbit").clock_hz)
    assert (hello.arena_bytes, hello.stack_bytes) == (96, image.memory.stack_bytes)
    assert 4096 < hello.blob_bytes < RAM_BYTES - image.memory.stack_bytes


def test_the_clock_repeats_to_the_instruction_and_is_linear(board: tuple[Qemu, Session]) -> None:
    _, session = board
    empty, one, thousand = (clock_cycles(session, n, repeats=60) for n in (0, 1, 1000))
    assert [len(set(counts)) for counts in (empty, one, thousand)] == [1, 1, 1]
    per_iteration, rest = divmod(thousand[0] - one[0], 999)
    assert rest == 0
    assert 4 <= per_iteration <= 10
    assert 0 <= empty[0] <= 4
    assert clock_cycles(session, 1000) == thousand[:1]


def test_the_plugin_counts_what_the_clock_counts(image: Artifact) -> None:
    """Between its two stores to the marker register the plug-in sees the region and a constant part of its edges."""
    with running("microbit", image, plugin=counting_plugin()) as (qemu, _, session):
        clock = [count for n in (0, 1, 500, 20_000) for count in clock_cycles(session, n, repeats=3)]
        marks = qemu.counts()
    assert len(marks) == 2 * len(clock)
    counted = [end.since(begin).instructions for begin, end in zip(marks[::2], marks[1::2], strict=True)]
    assert len({many - few for many, few in zip(counted, clock, strict=True)}) == 1


def test_it_infers_and_stays_within_its_stack(board: tuple[Qemu, Session]) -> None:
    _, session = board
    session.put("samples", SAMPLES)
    events = list(session.run(Job("infer", b"", 3, repeats=2, profile=True)))
    outputs = [event.data for event in events if isinstance(event, ResultEvent)]
    assert outputs == [tiny_output(SAMPLES[i : i + SAMPLE_BYTES]) for i in range(0, len(SAMPLES), SAMPLE_BYTES)]
    done = events[-1]
    assert isinstance(done, Done)
    assert 0 < done.stack_high_water < 1024


# ---- a network, on every small core ----


class Odd(nn.Module):
    """Odd numbers of channels, so that no row of weights and no pixel begins where a word does."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(1, 5, 3, stride=2, padding=1), nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.pointwise, self.head = nn.Conv2d(5, 7, 1), nn.Linear(7 * 3 * 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.depthwise(x))
        x = nn.functional.max_pool2d(torch.relu(self.pointwise(x)), 2)
        y: torch.Tensor = self.head(x.flatten(1))
        return y


@pytest.fixture(scope="module")
def network() -> tuple[CompiledModel, Int8Array, Int8Array]:
    """The model, samples, and what the integer reference makes of them."""
    torch.manual_seed(3)
    data = torch.randn(24, 1, 13, 13)
    compiled, graph = compile_with_reference(Odd().eval(), data[:1], calibration=data, name="odd")
    samples = compiled.input.quantize(data[:8].permute(0, 2, 3, 1).contiguous().numpy())
    return compiled, samples, graph.run_integer(samples)


def on_microbit(artifact: Artifact, use: Callable[[Session], list[bytes]]) -> list[bytes]:
    with running("microbit", artifact) as (_, _, session):
        return use(session)


def on_nrf(artifact: Artifact, use: Callable[[Session], list[bytes]]) -> list[bytes]:
    chip = Nrf52840(artifact.path)
    chip.boot()
    return use(opened(chip))


def on_pico(artifact: Artifact, use: Callable[[Session], list[bytes]]) -> list[bytes]:
    chip = Rp2040(artifact.path)
    chip.run_boot_block()
    return use(opened(chip))


def opened(stream: ByteStream) -> Session:
    session = Session(stream)
    session.open(20.0, ask=False)
    return session


@pytest.mark.parametrize(
    ("name", "run"), [("microbit", on_microbit), ("nrf52840-dk", on_nrf), ("rpi-pico", on_pico)]
)
def test_a_network_gives_the_integers_of_the_reference(
    name: str,
    run: Callable[[Artifact, Callable[[Session], list[bytes]]], list[bytes]],
    network: tuple[CompiledModel, Int8Array, Int8Array],
) -> None:
    compiled, samples, expected = network
    artifact = build(compiled, name, cache=cache_dir())
    outputs = run(artifact, lambda session: outputs_of(session, samples.tobytes(), len(samples)))
    found = np.frombuffer(b"".join(outputs), np.int8).reshape(len(samples), -1)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected, axis=0)) > 4, "the samples do not exercise the model"


def test_a_model_that_needs_more_ram_is_refused_by_name() -> None:
    """By the linker, which has the last word."""
    tiny = tiny_model()
    wide = {name: text.replace("ARENA_BYTES 96", "ARENA_BYTES 8000") for name, text in tiny.sources.items()}
    assert wide != tiny.sources
    with pytest.raises(CompileError, match=r"needs \d+ bytes more RAM than microbit has"):
        build(replace(tiny, sources=wide, arena_bytes=8000), "microbit", cache=cache_dir())


def test_a_workload_is_measured_like_on_any_device(tmp_path: Path) -> None:
    tiny_workload.register()
    (tmp_path / "bench.yaml").write_text("devices:\n  m0:\n    board: microbit\n    emulated: true\n")
    found = load_bench(tmp_path / "bench.yaml").devices["m0"]
    with connected(found, cache_dir()) as device, Store(tmp_path / "store") as store:
        measurement = measure(deploy(found, device, "tiny", cache_dir()), store, "test")
    assert measurement.median("bit_exact", "run") == 1.0
    expected = tiny_workload.WORKLOAD.prepare(tmp_path).reference_outputs
    np.testing.assert_array_equal(measurement.outputs, expected)
    instructions = measurement.record("instructions").raw
    assert len(instructions) == tiny_workload.SAMPLES
    assert len(set(instructions)) == 1
    assert 0 < measurement.median("peak_ram", "run") < RAM_BYTES


# ---- when it goes wrong ----


def test_a_hard_fault_is_reported_with_registers_and_place(image: Artifact) -> None:
    with running("microbit", image) as (_, _, session):
        with pytest.raises(Crash) as caught:
            list(session.run(Job("crash", b"", 0)))
        session.open(20.0, ask=False)
        assert outputs_of(session, SAMPLES, 3)[0] == tiny_output(SAMPLES[:SAMPLE_BYTES])
    report = caught.value.report
    assert report is not None
    assert report.region == "inference"
    assert Image(image.path).where(report.registers["pc"]).startswith("job_crash")
    assert {"r0", "r3", "r12", "lr", "sp", "xpsr", "r4", "r11"} <= report.registers.keys()
    assert "cfsr" not in report.registers, "Armv6-M has no such register"


def test_an_overflow_of_the_stack_is_told_apart(image: Artifact) -> None:
    with running("microbit", image) as (_, _, session):
        with pytest.raises(OutOfMemory, match="overflow"):
            list(session.run(Job("recurse", b"", 1000)))
        session.open(20.0, ask=False)
        assert outputs_of(session, SAMPLES, 1) == [tiny_output(SAMPLES[:SAMPLE_BYTES])]


def test_a_lockup_is_a_crash(image: Artifact) -> None:
    with running("microbit", image) as (_, _, session), pytest.raises(Crash, match="locked up"):
        list(session.run(Job("lockup", b"", 0)))


def test_the_largest_report_leaves_room_on_the_handlers_stack(image: Artifact) -> None:
    """What a fault's report touches of its own stack, from a pattern the debugger lays before."""
    at, size = handler_stack(image.path)
    with running("microbit", image) as (qemu, _, session):
        with pytest.raises(Crash):
            list(session.run(Job("crash", b"", 0)))
        session.open(20.0, ask=False)
        content = qemu.read_memory(at, size)
    untouched = len(content) - len(content.lstrip(b"\0"))
    assert untouched >= 128, f"{size - untouched} of {size} bytes are in use"


def handler_stack(elf: Path) -> tuple[int, int]:
    """Address and size."""
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        symbols = table.get_symbol_by_name("handler_stack")
        assert symbols is not None
        return int(symbols[0]["st_value"]), int(symbols[0]["st_size"])
