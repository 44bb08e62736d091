"""The work of ``lab compile``: options to a compiled model, its table, its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from lab.commands.compile import LOSSES
from lab.commands.compile_source import (
    EVERYTHING,
    Network,
    from_function,
    from_zoo,
    identifier,
    is_function,
    selected,
)
from lab.compiler.layer_rows import CALLERS, LayerRow, constants_bytes, layer_rows
from lab.compiler.model import BufferPlan, CompiledModel
from lab.compiler.program import Program
from lab.errors import CompileError, ConfigError
from lab.runtime_files import RUNTIME, needed_files
from lab.units import format_quantity
from measurements.record import ArenaSchedule, Buffer, PlannedStep

if TYPE_CHECKING:
    from lab.compiler.joint import Loss
    from lab.compiler.operations.optimizer import Optimizer
    from lab.compiler.quantized import QuantizedGraph

OPTIMIZERS: Mapping[str, Mapping[str, float]] = {
    "sgd": {"weight_decay": 0.0},
    "momentum": {"momentum": 0.9, "dampening": 0.0, "nesterov": 0.0, "weight_decay": 0.0},
    "adam": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
}
"""Names and settings with their defaults, which are PyTorch's but for the momentum."""
HEADS = ("LAYER", "KIND", "MACS FWD", "MACS BWD", "WEIGHTS", "ACTIVATIONS", "KEPT", "OFFSET")
KINDS_SHOWN = 3


@dataclass(frozen=True)
class Options:
    """What the command line says besides MODEL.

    Attributes:
        name: C identifier; empty for one made of MODEL.
        loss: function of ``torch.nn.functional``; empty for inference.
        train: as :func:`lab.commands.compile_source.selected`; empty for all.
        optimizer: as :func:`optimizer_of`; empty for plain SGD.
        precision: of training; empty for float32.
        calibration: NumPy file of inputs that set the ranges of int8 activations.
        recompute_bytes, arena_limit_bytes: as for :func:`lab.compiler.compile`.
        at_end: whether all updates follow the backward pass, rather than each as soon as its gradient exists.
        input_shape: one sample, where MODEL brings no example.
        batch: samples of a training step; ``None`` for what MODEL brings, or 1.
        seed: of random weights and examples.
    """

    name: str = ""
    loss: str = ""
    train: tuple[str, ...] = ()
    optimizer: str = ""
    precision: Literal["float32", "int8", ""] = ""
    calibration: Path | None = None
    recompute_bytes: int | None = None
    arena_limit_bytes: int | None = None
    at_end: bool = False
    input_shape: tuple[int, ...] = ()
    batch: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """A compiled model with its program and the plan that is shown: of a training step where it is trained."""

    compiled: CompiledModel
    program: Program
    schedule: ArenaSchedule


def shape(text: str) -> tuple[int, ...]:
    """Sizes such as ``1,28,28``; empty for an empty text.

    Raises:
        ConfigError: they are no positive numbers.
    """
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise ConfigError(f"--input-shape is {text!r}", hint="positive numbers parted by commas, as 1,28,28")
    return tuple(int(part) for part in parts)


def compile_model(model: str, options: Options) -> Outcome:
    """Compile what MODEL names.

    Raises:
        CompileError: as :func:`lab.compiler.compile`, or MODEL names nothing.
        ConfigError: options that do not go together.
    """
    from lab.compiler.importers import SUFFIXES

    if not options.loss:
        _check_inference(options)
    if not is_function(model) and Path(model).suffix in SUFFIXES:
        return _model_file(Path(model), options)
    if is_function(model):
        network = from_function(model, options.input_shape, options.batch, options.seed)
    else:
        network = from_zoo(model, options.input_shape, options.batch, options.seed)
    return _train(network, options) if options.loss else _infer(network, options)


def _check_inference(options: Options) -> None:
    given = {
        "--train": options.train,
        "--optimizer": options.optimizer,
        "--recompute-bytes": options.recompute_bytes,
        "--at-end": options.at_end,
        "--batch": (options.batch or 1) > 1,
        "--precision float32": options.precision == "float32",
    }
    for option, value in given.items():
        if value:
            raise ConfigError(f"{option} is for training", hint=f"add --loss, one of {', '.join(LOSSES)}")


def _train(network: Network, options: Options) -> Outcome:
    import torch

    from lab.compiler.training import compile_training
    from lab.compiler.training_passes import fold_batch_norm
    from lab.run_records import training_schedule

    precision = options.precision or "float32"
    calibration = _calibration(options.calibration)
    named = network.module
    if precision == "int8":
        # Folding takes the norms away, so their parameters cannot be chosen.
        named = fold_batch_norm(network.module, network.example, everything=True)
    loss: Loss = getattr(torch.nn.functional, options.loss)
    done = compile_training(
        network.module,
        network.example,
        loss=loss,
        train=selected(options.train or (EVERYTHING,), [name for name, _ in named.named_parameters()]),
        optimizer=optimizer_of(options.optimizer or "sgd"),
        name=options.name or network.name,
        arena_limit_bytes=options.arena_limit_bytes,
        immediate=not options.at_end,
        recompute_bytes=options.recompute_bytes,
        precision=precision,
        calibration=network.calibration if calibration is None else torch.from_numpy(calibration),
    )
    training = done.compiled.training
    if training is None:
        raise CompileError("the compiler made no training", hint="please report it")
    return Outcome(done.compiled, done.program, training_schedule(training))


def _infer(network: Network, options: Options) -> Outcome:
    import torch

    from lab.compiler import compile_with_reference

    data = _calibration(options.calibration)
    calibration = network.calibration if data is None else torch.from_numpy(data)
    if calibration is None:
        raise CompileError(
            "inference in int8 needs calibration data",
            hint="give --calibration, a .npy of real inputs; or --loss to compile training in float32",
        )
    compiled, graph = compile_with_reference(
        network.module,
        network.example,
        calibration=calibration,
        name=options.name or network.name,
        arena_limit_bytes=options.arena_limit_bytes,
    )
    return _inference(compiled, graph)


def _model_file(path: Path, options: Options) -> Outcome:
    from lab.compiler.importers import import_model

    if options.loss:
        raise ConfigError(f"{path} is a model file: it can be run, not trained", hint="give a PyTorch module to train")
    if options.input_shape or options.batch is not None:
        raise ConfigError(f"{path} has its own shapes", hint="leave out --input-shape and --batch")
    compiled, graph = import_model(
        path,
        name=options.name or identifier(path.stem),
        calibration=_calibration(options.calibration),
        arena_limit_bytes=options.arena_limit_bytes,
    )
    return _inference(compiled, graph)


def _inference(compiled: CompiledModel, graph: QuantizedGraph) -> Outcome:
    from lab.compiler.memory import layout
    from lab.compiler.operations.int8 import program_of

    program = program_of(graph)
    schedule = ArenaSchedule(
        tuple(PlannedStep(layer.name, layer.operator, "forward", layer.macs) for layer in compiled.layers),
        tuple(Buffer(one.name, one.offset, one.size, one.first, one.last) for one in compiled.buffers),
        compiled.arena_bytes,
        compiled.lower_bound_bytes,
        layout(program).method,
    )
    return Outcome(compiled, program, schedule)


def _calibration(path: Path | None) -> npt.NDArray[np.float32] | None:
    if path is None:
        return None
    try:
        data = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(
            f"calibration data {path} cannot be read: {error}", hint="a .npy file, as of numpy.save"
        ) from (error)
    if not isinstance(data, np.ndarray) or data.dtype.kind != "f":
        found = data.dtype if isinstance(data, np.ndarray) else "several arrays"
        raise ConfigError(f"calibration data {path} holds {found}", hint="one array of floats, inputs along axis 0")
    if not np.isfinite(data).all():
        raise ConfigError(f"calibration data {path} holds NaN or infinite values", hint="give real inputs")
    return np.ascontiguousarray(data, dtype=np.float32)


def optimizer_of(text: str) -> Optimizer:
    """The optimiser that a text such as ``adam:beta1=0.8,weight_decay=0.01`` means.

    Raises:
        CompileError: an unknown name or setting, or a value that is no number or out of range.
    """
    from lab.compiler.operations.optimizer import Adam, Sgd, SgdMomentum

    name, _, settings = text.partition(":")
    if name not in OPTIMIZERS:
        raise CompileError(f"--optimizer is {name!r}", hint=f"one of {', '.join(OPTIMIZERS)}")
    value = dict(OPTIMIZERS[name])
    for setting in filter(None, settings.split(",")):
        key, _, number = (part.strip() for part in setting.partition("="))
        if key not in value:
            raise CompileError(f"--optimizer {name} has no setting {key!r}", hint=f"it has {', '.join(value)}")
        try:
            value[key] = float(number)
        except ValueError:
            raise CompileError(f"--optimizer {name}: {setting!r} has no number", hint="as weight_decay=0.01") from None
    decay = value["weight_decay"]
    if name == "sgd":
        return Sgd(weight_decay=decay)
    if name == "momentum":
        nesterov = bool(value["nesterov"])
        return SgdMomentum(value["momentum"], value["dampening"], nesterov=nesterov, weight_decay=decay)
    return Adam(value["beta1"], value["beta2"], value["epsilon"], decay, decoupled=name == "adamw")


def report_lines(done: Outcome) -> list[str]:
    """The table and the totals."""
    compiled, schedule = done.compiled, done.schedule
    rows = layer_rows(done.program, _plans(done))
    training = compiled.training
    what = "int8 inference" if training is None else (
        f"{training.precision} training by {training.optimizer}, batch {training.batch}"
    )  # fmt: skip
    ratio = schedule.arena_bytes / schedule.lower_bound_bytes if schedule.lower_bound_bytes else 1.0
    lines = [f"{compiled.name}: {what}, {len(schedule.steps)} steps", "", *table(rows), ""]
    lines.append(
        f"arena        {_size(schedule.arena_bytes)}, lower bound {_size(schedule.lower_bound_bytes)}, "
        f"ratio {ratio:.3f}, plan: {schedule.method}"
    )
    if training is not None:
        inference = max((one.offset + one.size for one in compiled.buffers), default=0)
        lines.append(f"             inference alone {_size(inference)}")
        count = len(training.variables)
        lines.append(f"variables    {_size(training.variables_bytes)} in RAM besides, {count} tensors")
    lines.append(f"constants    {_size(constants_bytes(done.program))} in flash, without code")
    return lines


def _plans(done: Outcome) -> Sequence[BufferPlan]:
    training = done.compiled.training
    return done.compiled.buffers if training is None else training.buffers


def table(rows: Sequence[LayerRow]) -> list[str]:
    """Lines of the table by layer, with totals."""
    cells = [HEADS, *(_cells(row) for row in rows), _totals(rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(HEADS))]
    lines = []
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        padded += [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(padded).rstrip())
    return lines


def _cells(row: LayerRow) -> tuple[str, ...]:
    kinds = ", ".join(row.kinds[:KINDS_SHOWN]) + (", …" if len(row.kinds) > KINDS_SHOWN else "")
    offset = CALLERS if row.offset is None else str(row.offset)
    numbers = (row.macs_forward, row.macs_backward, row.weights_bytes, row.activation_bytes, row.kept_bytes)
    return (row.name, kinds, *(str(number) for number in numbers), offset if row.activation_bytes else "-")


def _totals(rows: Sequence[LayerRow]) -> tuple[str, ...]:
    totals = (
        sum(row.macs_forward for row in rows),
        sum(row.macs_backward for row in rows),
        sum(row.weights_bytes for row in rows),
        sum(row.activation_bytes for row in rows),
        sum(row.kept_bytes for row in rows),
    )
    return ("total", "", *(str(total) for total in totals), "")


def _size(size: int) -> str:
    return f"{size} bytes" if size < 1024 else f"{size} bytes ({format_quantity(size, 'bytes')})"


def write(done: Outcome, folder: Path) -> Path:
    """Write the generated C and the files it includes, the runtime files it needs under ``runtime/``, and the drawing
    ``arena.svg``.

    Raises:
        ConfigError: the folder cannot be written.
    """
    from measurements.report.arena_chart import arena_svg

    files = {folder / name: text for name, text in done.compiled.sources.items()}
    for path in needed_files(done.compiled.sources.values()):
        files[folder / "runtime" / path.relative_to(RUNTIME)] = path.read_text(encoding="utf-8")
    if done.schedule.buffers:
        files[folder / "arena.svg"] = arena_svg(done.schedule, title=f"Arena of {done.compiled.name}") + "\n"
    try:
        for path, text in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        for name, content in done.compiled.binaries.items():
            (folder / name).write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error}", hint="choose another --output") from error
    return folder
