"""``lab compile``: a network to static C, with what each layer costs and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from lab.errors import ConfigError
from lab.units import parse_bytes

LOSSES = {
    "cross-entropy": "cross_entropy",
    "mse": "mse_loss",
    "smooth-l1": "smooth_l1_loss",
    "huber": "huber_loss",
    "bce-with-logits": "binary_cross_entropy_with_logits",
}
"""Name on the command line to the function of ``torch.nn.functional``."""


@click.command("compile")
@click.argument("model")
@click.option("--name", default="", help="C identifier of the model (default: from MODEL).")
@click.option("--loss", default="", type=click.Choice(["", *LOSSES]), help="Compile training too, with this loss.")
@click.option("--train", multiple=True, help="Names, globs, all (default), last, bias; x@inputs=0.5 for a share.")
@click.option("--optimizer", default="", help="sgd (default), momentum, adam, adamw; as in momentum:momentum=0.8.")
@click.option("--precision", default="", type=click.Choice(["", "float32", "int8"]), help="Training: float32 or int8.")
@click.option("--calibration", type=click.Path(path_type=Path), help="NumPy file of inputs that set int8 ranges.")
@click.option("--recompute-bytes", default="", help="Compute activations again to reach this arena, as 64KiB.")
@click.option("--arena-limit", default="", help="Refuse a larger arena, as 64KiB.")
@click.option("--device", default="", help="Refuse what does not fit this device of the bench.")
@click.option("--at-end/--immediate", default=False, help="Apply all updates at the end, or each gradient at once.")
@click.option("--input-shape", default="", help="One sample, as 1,28,28, where MODEL returns no example.")
@click.option("--batch", type=click.IntRange(1), help="Samples of a training step (default: MODEL's example, or 1).")
@click.option("--seed", default=0, show_default=True, help="Of random weights and examples.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Write C, runtime and drawing here.")
@click.pass_obj
def compile_command(
    config: Path,
    model: str,
    name: str,
    loss: str,
    train: tuple[str, ...],
    optimizer: str,
    precision: Literal["float32", "int8", ""],
    calibration: Path | None,
    recompute_bytes: str,
    arena_limit: str,
    device: str,
    at_end: bool,
    input_shape: str,
    batch: int | None,
    seed: int,
    output: Path | None,
) -> None:
    """Compile MODEL to static C and show what each layer costs.

    MODEL is a network of the zoo (mlp, ds-cnn, ...), a function path/to/file.py:function that returns a torch.nn.Module
    or (module, example input), or a .tflite or .onnx file. Without --loss it is compiled for int8 inference.
    """
    # Imported here: they load NumPy and PyTorch.
    from lab.bench import Bench
    from lab.build import check_fits
    from lab.commands.compile_network import Options, compile_model, report_lines, shape, write

    entry = Bench.load(config).get(device) if device else None
    if entry is not None and arena_limit:
        raise ConfigError("--device and --arena-limit both limit the arena", hint="give one of them")
    limit = parse_bytes(arena_limit) if arena_limit else entry.board.memory.arena_limit_bytes if entry else None
    options = Options(
        name=name,
        loss="" if not loss else LOSSES[loss],
        train=train,
        optimizer=optimizer,
        precision=precision,
        calibration=calibration,
        recompute_bytes=parse_bytes(recompute_bytes) if recompute_bytes else None,
        arena_limit_bytes=limit,
        at_end=at_end,
        input_shape=shape(input_shape),
        batch=batch,
        seed=seed,
    )
    done = compile_model(model, options)
    if entry is not None:
        memory, firmware = entry.board.memory, entry.board.firmware_board or ""
        check_fits(done.compiled, memory.flash_bytes, memory.ram_bytes, memory.arena_limit_bytes, firmware)
    for line in report_lines(done):
        click.echo(line)
    if output is not None:
        click.echo(f"written: {write(done, output)}")
