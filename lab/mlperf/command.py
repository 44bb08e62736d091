"""``lab mlperf``: the command line of this package. Light to import; what is heavy is imported when a command runs."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lab.errors import ConfigError, LabError
from lab.mlperf.benchmarks import IDS, Mode, benchmark
from lab.paths import cache_dir, reports_dir, store_dir
from lab.units import format_quantity

if TYPE_CHECKING:
    from lab.build import MlperfMode, MlperfModel
    from lab.meter_config import MeterConfig
    from lab.power.base import Meter
    from measurements.record import Run

# An emulator runs as fast as the host lets it; only its own clock counts.
EMULATED_INFER_S = 600.0


@click.group("mlperf")
def mlperf() -> None:
    """MLPerf Tiny: be the runner of any firmware that speaks the benchmark's serial protocol."""


@mlperf.command()
@click.option("--port", required=True, help="The device's serial port: path or URL.")
@click.option("--model", required=True, type=click.Choice(IDS), help="The benchmark the device must say it is.")
@click.option("--mode", default="performance", show_default=True, help="What to measure.",
              type=click.Choice(["performance", "accuracy", "energy"]))  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the labelled set (y_labels.csv, files).")
@click.option("--emulated", is_flag=True, help="The port is an emulator's: its clock is virtual.")
@click.option("--baud", type=click.IntRange(1), help="Bits per second (default: 115200, in energy mode 9600).")
@click.option("--infer-timeout", "infer_s", type=click.FloatRange(0.1), help="Seconds one `infer` may take (30).")
@click.option("--meter-port", help="Energy mode: serial port of the PPK2.")
@click.option("--meter-of", metavar="DEVICE", help="Energy mode: the meter that the bench file has at this device.")
@click.option("--voltage", type=float, help="Energy mode: supply of the device (default: the bench file's, or 3.3).")
@click.option("--edge-input", type=click.IntRange(0, 7),
              help="Energy mode: logic input on the timestamp pin (default: the bench file's, or 0).")  # fmt: skip
@click.pass_obj
def run(
    config: Path,
    port: str,
    model: str,
    mode: Mode,
    data: Path | None,
    emulated: bool,
    baud: int | None,
    infer_s: float | None,
    meter_port: str | None,
    meter_of: str | None,
    voltage: float | None,
    edge_input: int | None,
) -> None:
    """Run a mode of the benchmark with its rules enforced; results go to the store, a report is written.

    Exit status 1 where a rule is broken, the device fails or the bench does.
    """
    from lab.mlperf.client import INFER_S
    from lab.mlperf.session import Request
    from lab.mlperf.session import run as run_benchmark
    from lab.reporting import mirror, new_session_id, report_session
    from measurements.store import Store

    metered = _meter(config, meter_port, meter_of, voltage, emulated) if mode == "energy" else None
    request = Request(
        port=port,
        benchmark=benchmark(model),
        mode=mode,
        data=data,
        emulated=emulated,
        baud=baud,
        infer_s=infer_s or (EMULATED_INFER_S if emulated else INFER_S),
        meter=None if metered is None else metered[1],
        edge_input=edge_input if edge_input is not None else 0 if metered is None else metered[0].marker_input,
        meter_config=None if metered is None else metered[0],
    )
    session_id = new_session_id()
    failure: LabError | None = None
    with Store(store_dir()) as store:
        try:
            _print(run_benchmark(request, store, session_id))
        except LabError as error:
            failure = error
    page = report_session(store_dir(), session_id, reports_dir())
    if page is not None:
        click.echo(f"report: {page}")
    if told := mirror(store_dir()):
        click.echo(told)
    if failure is not None:
        raise failure


@mlperf.command()
@click.argument("model_file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--device", default="m4f", show_default=True, help="An emulated microcontroller of the bench.")
@click.option("--model", required=True, type=click.Choice(IDS), help="The benchmark the device says it is.")
@click.option("--mode", default="performance", show_default=True, help="How the device tells time.",
              type=click.Choice(["performance", "energy"]))  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0), help="Stop after so long (default: until Ctrl-C).")
@click.pass_obj
def serve(
    config: Path, model_file: Path, device: str, model: MlperfModel, mode: MlperfMode, seconds: float | None
) -> None:
    """Run MODEL_FILE on an emulated board that speaks MLPerf Tiny's protocol on a PTY, and say which."""
    from lab.bench import Bench
    from lab.mlperf.serve import served

    with served(Bench.load(config).get(device), model_file, model, mode, cache_dir()) as board:
        click.echo(f"port {board.port}")
        if board.meter_port is not None:
            click.echo(f"meter {board.meter_port}, timestamp pin on logic input 1")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait(seconds)


def _meter(
    config: Path, port: str | None, device: str | None, voltage_v: float | None, emulated: bool
) -> tuple[MeterConfig, Meter] | None:
    """The meter of energy mode, not yet open: a PPK2 at a port, or the one of a device of the bench; None where none.

    Raises:
        ConfigError: both were named, or the device has no meter that can be used here.
    """
    from lab.inventory import load_bench
    from lab.meter_config import Ppk2Config
    from lab.power.registry import make_meter

    if port is not None and device is not None:
        raise ConfigError("--meter-port and --meter-of both name a meter", hint="give one of them")
    if device is not None:
        entry = load_bench(config).devices.get(device)
        if entry is None or entry.meter is None or entry.meter.emulated:
            raise ConfigError(
                f"{config}: device {device!r} has no meter of its own",
                hint="an emulated one is started by `lab mlperf serve --mode energy`; name its port with --meter-port",
            )
        return entry.meter, make_meter(entry.meter, voltage_v or entry.meter_voltage_v)
    if port is None:
        return None
    # What a bench file must not say may be said by hand: the port of an emulated one, or /dev/ttyACM0.
    known = Ppk2Config(kind="ppk2", emulated=True).model_copy(update={"port": port, "emulated": emulated})
    return known, make_meter(known, voltage_v or 3.3)


def _print(done: Run) -> None:
    click.echo(f"{done.provenance.device}: {done.provenance.workload} {done.provenance.variant}: valid")
    for record in done.records:
        value = format_quantity(record.median, record.unit)
        if record.class_uncertainty is not None and record.combined_uncertainty is not None:
            off = (record.combined_uncertainty, record.class_uncertainty, record.run_uncertainty or 0.0)
            both, class_, runs = (format_quantity(one, record.unit) for one in off)
            value += f" ±{both} (meter ±{class_}, runs ±{runs})"
        click.echo(f"  {record.region:10} {record.metric:12} median {value}  n={record.n} {record.source}")
        if record.note and record.class_uncertainty is not None:
            click.echo(f"    {record.note}")
    for note in done.detail.notes:
        click.echo(f"  {note}")
