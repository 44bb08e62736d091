"""What tests with real firmware and real emulators need, and what they skip without."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.artifact import Artifact
from lab.build import build
from lab.compiler.model import CompiledModel, TensorSpec
from lab.emulators.qemu import Qemu, QemuMachine
from lab.emulators.qemu import machine_of as machine_in
from lab.emulators.tcg_plugin import QEMU, build_plugin
from lab.errors import ConfigError
from lab.inventory import Board, Device, load_bench, load_board
from lab.paths import cache_dir, config_dir
from lab.transports.serial import SerialPort
from lab.wire import Session

EMULATED_BOARDS = ("mps2-an386", "mps2-an500", "mps3-an547")
SAMPLE_BYTES = 64

_TINY = Path(__file__).resolve().parents[1] / "data" / "tiny_model"
_OFFSETS = bytes(range(8)) + bytes(SAMPLE_BYTES - 8)


def _missing(*programs: str) -> str:
    absent = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(absent)} (`lab doctor` says how to get it)" if absent else ""


needs_qemu = pytest.mark.skipif(
    bool(_missing(QEMU, "arm-none-eabi-gcc", "cmake", "ninja")),
    reason=_missing(QEMU, "arm-none-eabi-gcc", "cmake", "ninja") or "all there",
)
needs_host_compiler = pytest.mark.skipif(
    bool(_missing("gcc", "cmake", "ninja")), reason=_missing("gcc", "cmake", "ninja") or "all there"
)


def model_of(name: str, sources: Mapping[str, str], arena_bytes: int) -> CompiledModel:
    """A hand-written model of ``SAMPLE_BYTES`` bytes in and out."""
    border = TensorSpec((SAMPLE_BYTES,), 1.0, 0)
    digest = hashlib.sha256("".join(sources.values()).encode()).hexdigest()
    return CompiledModel(name, sources, border, border, (), (), arena_bytes, arena_bytes, digest)


def tiny_model() -> CompiledModel:
    """The hand-written model of ``tests/data/tiny_model``."""
    return model_of("tiny", {name: (_TINY / name).read_text() for name in ("model.c", "model.h")}, 96)


def tiny_output(sample: bytes) -> bytes:
    """What the tiny model computes from one sample."""
    return bytes(((value ^ 0x55) + offset) & 0xFF for value, offset in zip(sample, _OFFSETS, strict=True))


def built(board: str, model: CompiledModel | None = None) -> Artifact:
    """The tiny model, or another, with the jobs that misbehave; from the user's cache of builds."""
    return build(model or tiny_model(), board, cache=cache_dir(), test_jobs=True)


def counting_plugin() -> Path:
    """QEMU's counting plug-in; skips the test where it cannot be built."""
    try:
        return build_plugin(cache_dir())
    except ConfigError as error:
        pytest.skip(f"the counting plug-in cannot be built: {error.message}")


def entry(name: str) -> Device:
    """A device of the emulated bench that comes with the lab."""
    return load_bench(config_dir() / "emulated.yaml").devices[name]


def board_kind(board: str) -> Board:
    """The board kind of that name, as the lab ships it."""
    return load_board(config_dir() / "boards" / f"{board}.yaml")


def machine_of(board: str) -> QemuMachine:
    """The machine that emulates that board."""
    section = board_kind(board).qemu
    assert section is not None
    return machine_in(section)


@contextmanager
def running(board: str, artifact: Artifact, plugin: Path | None = None) -> Iterator[tuple[Qemu, SerialPort, Session]]:
    """An instance with an open session."""
    with Qemu(machine_of(board), artifact.path, plugin=plugin) as qemu:
        port = SerialPort(qemu.serial_url)
        try:
            qemu.release()
            session = Session(port, board_is_alive=qemu.check_alive)
            session.open(20.0, build_id=artifact.build_id, ask=False)
            yield qemu, port, session
        finally:
            port.close()
