"""The whole lab with nothing but what pip installs: no QEMU, no Arm compiler, no cmake, no ninja, no setpriv in PATH.

The same workload gives the same bytes as the Arm compiler's image on QEMU, and says who made them.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from helpers.conformance import network
from helpers.sandbox import foreign_names, private_places
from helpers.toolchain import board_kind, needs_qemu
from helpers.trained import data, trained_model

from lab.build import Toolchain, build, tool_path
from lab.compiler.model import CompiledModel
from lab.devices.base import Identity
from lab.devices.emulated_mcu import EmulatedTarget
from lab.devices.mcu import Mcu
from lab.emulators.registry import create
from lab.events import RegionEvent, ResultEvent
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir
from lab.training import train

needs_pip_extra = pytest.mark.skipif(
    tool_path("zig") is None or importlib.util.find_spec("unicorn") is None,
    reason="pip install 'hil-lab[emulate-pip]' was not done",
)
pytestmark = needs_pip_extra
BENCH = config_dir() / "pip-only.yaml"
# The bound of docs/without-qemu.md: two C libraries, each with functions right to about half a unit in the last place.
FLOAT_BOUND = 1e-6

RUN = """
import shutil, sys
for program in ("qemu-system-arm", "arm-none-eabi-gcc", "cmake", "ninja", "setpriv", "cc", "gcc", "git"):
    assert shutil.which(program) is None, program
from helpers import tiny_workload
tiny_workload.register()
from lab.cli import main
sys.exit(main(["run", "tiny", "--device", "m4f-pip"]))
"""


def test_a_run_needs_nothing_from_path(tmp_path: Path, shared_cache: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in foreign_names()}
    environment |= private_places(tmp_path, shared_cache)
    (cache_dir() / "zig").mkdir(parents=True, exist_ok=True)
    (shared_cache / "zig").symlink_to(cache_dir() / "zig")
    tests = str(Path(__file__).resolve().parents[1])
    environment |= {"PATH": str(tmp_path / "empty"), "LAB_CONFIG": str(BENCH), "PYTHONPATH": tests}
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "m4f-pip: tiny passed" in done.stdout
    assert "bit_exact" in done.stdout
    written = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"Unicorn 2." in written
    assert b"zig 0." in written


@contextmanager
def deployed(kind: str, toolchain: Toolchain, model: CompiledModel, board: str = "mps2-an386") -> Iterator[Mcu]:
    """A model on one emulator, in the image of one compiler."""
    described = board_kind(board)
    section = next(one for one in described.emulators if one.kind == kind)
    image = build(model, board, cache=cache_dir(), toolchain=toolchain)
    device = Mcu(
        Identity("one", board, "emulated", "", frozenset()),
        EmulatedTarget(lambda firmware: create(described, section, firmware)),
    )
    try:
        device.deploy(image)
        yield device
    finally:
        device.close()


def inferred(kind: str, toolchain: Toolchain) -> tuple[list[bytes], list[int]]:
    """Results and cycles of the small network's inferences."""
    with deployed(kind, toolchain, network().model) as device:
        events = list(device.run(network().job))
    return (
        [event.data for event in events if isinstance(event, ResultEvent)],
        [event.cycles for event in events if isinstance(event, RegionEvent)],
    )


@needs_qemu
def test_integers_are_the_same_whatever_compiles_and_emulates() -> None:
    expected = [row.tobytes() for row in network().outputs]
    of_gcc, gcc_counts = inferred("qemu", "arm-none-eabi")
    of_zig, zig_counts = inferred("unicorn", "zig")
    assert expected == of_gcc == of_zig
    assert inferred("qemu", "zig") == (of_zig, zig_counts), "one image counts alike"
    assert zig_counts != gcc_counts, "two compilers do not; the record says which it was"


def losses(kind: str, toolchain: Toolchain) -> npt.NDArray[np.float32]:
    """Losses of 96 steps of training in float32, which use expf and logf."""
    samples, labels = data(48)
    with deployed(kind, toolchain, trained_model()) as device:
        return np.array(train(device, samples, labels, epochs=2, learning_rate=0.02, seed=5).losses, np.float32)


@needs_qemu
def test_floats_differ_by_the_c_librarys_last_place_at_most() -> None:
    gcc, zig = losses("qemu", "arm-none-eabi"), losses("unicorn", "zig")
    assert np.abs(gcc - zig).max() <= FLOAT_BOUND
    assert np.array_equal(zig, losses("qemu", "zig")), "one image gives the same bits"


def test_the_bench_of_pip_names_unicorn_for_every_device() -> None:
    devices = load_bench(BENCH).devices.values()
    assert {device.board.cpu for device in devices} >= {"cortex-m3", "cortex-m4f", "cortex-m7", "cortex-m33"}
    for device in devices:
        assert device.emulator is not None
        assert device.emulator.kind == "unicorn"
        assert not device.needs_lease
