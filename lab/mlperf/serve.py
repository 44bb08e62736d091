"""An emulated board with the MLPerf Tiny personality behind a PTY, for this runner or anybody else's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.build import MlperfMode, MlperfModel, build
from lab.compiler.importers import import_model
from lab.devices.connect import emulated_meter, emulated_target
from lab.emulators.pty_link import PtyLink
from lab.errors import ConfigError
from lab.inventory import Device as Entry


@dataclass(frozen=True)
class Served:
    """The ports of a running board: its own, and that of its meter (None where nothing is metered)."""

    port: str
    meter_port: str | None


@contextmanager
def served(entry: Entry, model: Path, benchmark: MlperfModel, mode: MlperfMode, cache: Path) -> Iterator[Served]:
    """Import a model file, build the personality with it and run it on an emulator until the context ends.

    In energy mode the timestamp pin is logic input 1 of the emulated meter.

    Args:
        entry: an emulated microcontroller of the bench.
        model: ``.tflite`` or ``.onnx``.
        benchmark: what the device says it is.
        mode: how it tells time; performance serves accuracy, too.
        cache: for the build.

    Raises:
        ConfigError: the device is not emulated, or the model cannot be compiled or fed.
        EmulatorError: the emulator does not start.
    """
    if not entry.emulated or entry.board.firmware_board is None:
        raise ConfigError(
            f"device {entry.name!r} is not emulated, or its board has no firmware",
            hint="`lab devices` lists the emulated ones",
        )
    compiled, _ = import_model(model)
    image = build(
        compiled,
        entry.board.firmware_board,
        cache=cache,
        personality="mlperf",
        mlperf_mode=mode,
        mlperf_model=benchmark,
    )
    with ExitStack() as stack:
        meter = emulated_meter(entry, stack) if mode == "energy" and entry.meter is not None else None
        target = emulated_target(entry, cache, None if meter is None else meter.marker_path)
        stack.callback(target.close)
        link = stack.enter_context(PtyLink(target.load(image)))
        target.release()
        yield Served(link.path, None if meter is None else meter.address)
