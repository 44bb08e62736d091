"""What every emulator is held to: the devices of ``device_configs/emulators.yaml``, one small network for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from torch import nn

from lab.artifact import Artifact
from lab.build import build
from lab.compiler import compile_with_reference
from lab.compiler.model import CompiledModel
from lab.devices.base import Identity
from lab.devices.connect import emulated_target, firmware_of
from lab.devices.emulated_mcu import EmulatedTarget
from lab.devices.mcu import Mcu
from lab.emulators.base import McuEmulator
from lab.emulators.registry import version_of
from lab.errors import ToolMissing
from lab.events import Event, Job, RegionEvent, ResultEvent
from lab.inventory import Device, load_bench
from lab.paths import cache_dir, config_dir
from lab.wire import Session

SAMPLES = 4


def entries() -> list[Device]:
    """Every board with every emulator of it."""
    return list(load_bench(config_dir() / "emulators.yaml").devices.values())


def version(entry: Device) -> str:
    """The emulator's version, empty where it is not installed."""
    return "" if entry.emulator is None else version_of(entry.emulator)


@dataclass(frozen=True)
class Network:
    """A network in int8 that fits into the smallest board, and what it makes of some samples."""

    model: CompiledModel
    inputs: npt.NDArray[np.int8]
    outputs: npt.NDArray[np.int8]

    @property
    def job(self) -> Job:
        """All samples once."""
        return Job("infer", self.inputs.tobytes(), len(self.inputs), quiet_us=0)


@cache
def network() -> Network:
    """Convolutions, a maximum and a dense layer; expected are the integers of the quantised graph."""
    torch.manual_seed(4)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 10),
    )
    data = torch.randn(16, 1, 14, 14)
    model, graph = compile_with_reference(module.eval(), data[:1], calibration=data, name="conformance")
    inputs = model.input.quantize(data[:SAMPLES].permute(0, 2, 3, 1).contiguous().numpy())
    return Network(model, inputs, graph.run_integer(inputs).reshape(SAMPLES, -1))


@dataclass
class Bed:
    """An emulated device whose emulator the test may touch."""

    entry: Device
    artifact: Artifact
    target: EmulatedTarget
    device: Mcu

    @property
    def emulator(self) -> McuEmulator:
        """What runs now."""
        emulator = self.target.emulator
        assert emulator is not None
        return emulator

    @property
    def locks_up(self) -> bool:
        """Whether a fault in the fault handler ends the core; RISC-V takes one fault after the other."""
        return not self.entry.board.cpu.startswith("rv")

    def session(self) -> Session:
        """A session beside the device's own, without its post-mortems, which take time; recover() resynchronises."""
        stream = self.device._stream
        assert stream is not None
        session = Session(stream, board_is_alive=self.emulator.check_alive)
        session.open(20.0, build_id=self.artifact.build_id)
        return session

    def infer(self) -> npt.NDArray[np.int8]:
        """What the device makes of the network's samples."""
        return outputs(list(self.device.run(network().job)))

    def works(self) -> bool:
        """Whether it computes what it must."""
        return np.array_equal(self.infer(), network().outputs)

    def cycles(self, job: Job) -> list[int]:
        """What the regions of a job take."""
        return [event.cycles for event in self.device.run(job) if isinstance(event, RegionEvent)]


def outputs(events: list[Event]) -> npt.NDArray[np.int8]:
    """Results of a job, one row each."""
    return np.array([np.frombuffer(event.data, np.int8) for event in events if isinstance(event, ResultEvent)])


@contextmanager
def bed(entry: Device) -> Iterator[Bed]:
    """The network on a device; skips where the emulator or the compiler is not installed."""
    section = entry.emulator
    assert section is not None
    if not version(entry):
        pytest.skip(f"{section.kind} is not installed (`lab doctor` says how to get it)")
    try:
        artifact = build(network().model, firmware_of(entry.board), cache=cache_dir(), test_jobs=True)
    except ToolMissing as error:
        pytest.skip(str(error))
    target = emulated_target(entry, cache_dir())
    device = Mcu(Identity(entry.name, artifact.board, "emulated", version(entry), frozenset()), target)
    try:
        device.deploy(artifact)
        yield Bed(entry, artifact, target, device)
    finally:
        device.close()


@cache
def _symbols(elf: Path) -> dict[str, tuple[int, int]]:
    with elf.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {str(one.name): (int(one["st_value"]) & ~1, int(one["st_size"])) for one in table.iter_symbols()}


def symbol(artifact: Artifact, name: str) -> tuple[int, int]:
    """Address and size of a symbol, without the bit that says Thumb."""
    return _symbols(artifact.path)[name]


def weights(artifact: Artifact) -> tuple[int, int]:
    """Address and size of the largest array of weights of the model."""
    return max(
        (place for name, place in _symbols(artifact.path).items() if name.endswith("_weights")), key=lambda p: p[1]
    )


def job(name: str, count: int = 1, repeats: int = 1) -> Job:
    """A job of the runner's own."""
    return Job(name, b"", count, repeats=repeats)
