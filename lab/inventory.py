"""Devices, board kinds and benches from YAML: validated, with errors that say file, line, field and the way out.

A bench file lists devices; each names a board kind, a file ``boards/<kind>.yaml`` beside the bench file or in the lab's
own ``device_configs``. Importing this module is cheap on purpose: ``pytest --collect-only`` does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from lab.config_fields import NAME, Bytes, Hertz, Names, Strict
from lab.config_validation import validate
from lab.connection_config import AdbDevice, SerialPort, SshHost, SwdProbe
from lab.device_checks import check_device
from lab.emulator_config import Emulator, EmulatorKind, QemuEmulator
from lab.energy_config import EnergyModel
from lab.environment_config import EnvironmentConfig, PythonPayload
from lab.errors import ConfigError
from lab.labgrid.config import LabgridConfig
from lab.meter_config import MeterConfig, is_on_device
from lab.paths import config_dir
from lab.suggestions import allowed
from lab.switch_config import PowerSwitch
from lab.yaml_file import Location, read_yaml

DeviceClass = Literal["mcu", "linux", "phone", "host"]

_ENERGY_TOLERANCE = 0.01
_BENCH_HINT = "name a bench with --lab-config or LAB_CONFIG; the emulated one is device_configs/emulated.yaml"
_SCHEMA_HINT = "the schema is {}.schema.json in device_configs"


class Memory(Strict):
    """What a board offers, bytes. ``arena_limit_bytes`` is what one model may use at run time."""

    flash_bytes: Bytes
    ram_bytes: Bytes
    arena_limit_bytes: Bytes

    @model_validator(mode="after")
    def _arena_fits(self) -> Memory:
        if self.arena_limit_bytes > self.ram_bytes:
            raise ValueError(f"arena_limit_bytes {self.arena_limit_bytes} is more than ram_bytes {self.ram_bytes}")
        return self


def _one_or_more(value: object) -> object:
    return [value] if isinstance(value, dict) else value


PinName = Annotated[str, Field(pattern=r"^(P[A-K]\d{1,2}|P\d\.\d{2}|GP\d{1,2})$")]


class Pins(Strict):
    """Pins by the part's own names: ``PA8``, ``P0.13``, ``GP4``. The firmware of the board drives these very pins.

    ``marker`` is high in regions, ``layer_marker`` in layers of a profiled pass.
    """

    uart_tx: PinName
    uart_rx: PinName
    marker: PinName
    layer_marker: PinName | None = None


class MeterHookup(Strict):
    """Where a power meter goes: ``supply`` is what is opened for it, the others are pins of connectors."""

    supply: Annotated[str, Field(min_length=1)]
    marker: Annotated[str, Field(min_length=1)]
    ground: Annotated[str, Field(min_length=1)]


class Board(Strict):
    """A kind of board: ``boards/<kind>.yaml``."""

    kind: Annotated[str, Field(pattern=NAME)]
    title: str
    device_class: DeviceClass
    cpu: str
    clock_hz: Hertz
    memory: Memory
    firmware_board: Annotated[str, Field(pattern=NAME, description="folder in firmware/boards")] | None
    pyocd_target: str | None = None
    nominal_voltage_v: Annotated[float, Field(ge=0)]
    pins: Pins | None = None
    meter_hookup: MeterHookup | None = None
    energy_model: EnergyModel | None = None
    emulators: Annotated[
        tuple[Emulator, ...],
        Field(strict=False, alias="emulator", description="one, or a list; `emulated: true` takes the first"),
        BeforeValidator(_one_or_more, json_schema_input_type=Emulator | list[Emulator]),
    ] = ()
    features: Names = ()

    @field_validator("emulators")
    @classmethod
    def _one_of_each_kind(cls, value: tuple[Emulator, ...]) -> tuple[Emulator, ...]:
        kinds = [one.kind for one in value]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"a kind of emulator stands twice: {', '.join(kinds)}")
        return value

    @model_validator(mode="after")
    def _energy_agrees(self) -> Board:
        model = self.energy_model
        if model is None or model.classes is None:
            return self
        idle_mw = model.classes.idle_mw.value
        active_mw = idle_mw + model.classes.instruction_nj.value * self.clock_hz * 1e-6
        for name, mw, current_a in (
            ("idle", idle_mw, model.idle_current_a), ("active", active_mw, model.active_current_a),
        ):  # fmt: skip
            level_mw = 1e3 * current_a * self.nominal_voltage_v
            if not math.isclose(mw, level_mw, rel_tol=_ENERGY_TOLERANCE):
                raise ValueError(
                    f"energy_model: by classes the board draws {mw:.4g} mW {name}, by {name}_current_a {level_mw:.4g} "
                    f"mW at {self.nominal_voltage_v:g} V; both must agree to {100 * _ENERGY_TOLERANCE:g} %"
                )
        return self

    @property
    def qemu(self) -> QemuEmulator | None:
        """How QEMU emulates it, None where it does not."""
        return next((one for one in self.emulators if isinstance(one, QemuEmulator)), None)


class DeviceConfig(Strict):
    """A device as a bench file has it; see :class:`Device` for what the lab works with."""

    board: str
    emulated: bool = False
    emulator: Annotated[
        EmulatorKind | None, Field(description="which of the board's emulators; the first where left out")
    ] = None
    serial: SerialPort | None = None
    swd: SwdProbe | None = None
    ssh: SshHost | None = None
    adb: AdbDevice | None = None
    place: Annotated[
        str | None, Field(min_length=1, description="of labgrid's: brings the ports; see docs/labgrid.md")
    ] = None
    python: PythonPayload | None = None
    environment: EnvironmentConfig = EnvironmentConfig()
    meter: MeterConfig | None = None
    power_switch: PowerSwitch | None = None
    tags: Names = ()
    features: Names = ()


class BenchFile(Strict):
    """The root of a bench file."""

    devices: dict[Annotated[str, Field(pattern=NAME)], DeviceConfig] = Field(default_factory=dict)
    labgrid: LabgridConfig | None = None

    @model_validator(mode="after")
    def _has_devices(self) -> BenchFile:
        if "devices" not in self.model_fields_set and not (self.labgrid and self.labgrid.discover):
            raise ValueError("devices: is missing; only labgrid: {discover: true} stands for it")
        return self


@dataclass(frozen=True)
class Device:
    """A device of a bench, joined with its board.

    Attributes:
        name: name in the bench file.
        board: the board kind.
        config: how it is reached and metered.
        origin: ``file:line`` of its entry.
        labgrid: the coordinator that has its place; None of a device of this host.
    """

    name: str
    board: Board
    config: DeviceConfig
    origin: str = ""
    labgrid: LabgridConfig | None = None

    @property
    def emulated(self) -> bool:
        """Whether the device is an emulator that each user starts for themselves."""
        return self.config.emulated

    @property
    def emulator(self) -> Emulator | None:
        """What emulates it: the one the bench file names, else the board's first; None on hardware."""
        if not self.emulated:
            return None
        kind = self.config.emulator
        return next((one for one in self.board.emulators if kind is None or one.kind == kind), None)

    @property
    def needs_lease(self) -> bool:
        """Whether two users would disturb each other: only hardware is one of its kind."""
        return not self.emulated and self.board.device_class != "host"

    @property
    def meter(self) -> MeterConfig | None:
        """The meter, None where the device is not metered."""
        return self.config.meter

    @property
    def meter_is_part(self) -> bool:
        """Whether its meter is part of the device, which is reached through a connection, and is read there."""
        return self.board.device_class in ("linux", "phone") and self.meter is not None and is_on_device(self.meter)

    @property
    def meter_voltage_v(self) -> float:
        """Supply voltage in volts: the meter's, else the board's nominal one."""
        meter = self.config.meter
        return meter.voltage_v if meter and meter.voltage_v is not None else self.board.nominal_voltage_v

    @property
    def tags(self) -> tuple[str, ...]:
        """Tags of the bench file."""
        return self.config.tags

    @property
    def features(self) -> tuple[str, ...]:
        """Features of the board and the device, and ``meter`` and ``power-switch`` where there is one."""
        own = (*self.board.features, *self.config.features)
        wired = (("meter",) if self.config.meter else ()) + (("power-switch",) if self.config.power_switch else ())
        return tuple(dict.fromkeys((*own, *wired)))


@dataclass(frozen=True)
class BenchConfig:
    """A validated bench.

    Attributes:
        path: the file it came from.
        devices: name to device, in the order of the file.
        labgrid: the coordinator that it names, None where it names none.
    """

    path: Path
    devices: Mapping[str, Device] = field(default_factory=dict)
    labgrid: LabgridConfig | None = None


def load_bench(path: Path) -> BenchConfig:
    """Read and validate a bench file and the boards it names.

    Raises:
        ConfigError: anything wrong, with file, line, field, what was found and what is allowed.
    """
    document = read_yaml(path, _BENCH_HINT)
    bench = validate(BenchFile, document, _SCHEMA_HINT.format("bench"))
    known = board_files(path.parent)
    devices: dict[str, Device] = {}
    for name, config in bench.devices.items():
        location: Location = ("devices", name)
        if config.board not in known:
            raise ConfigError(
                f"{document.where((*location, 'board'))}: devices.{name}.board: unknown board '{config.board}'; "
                f"{allowed(config.board, sorted(known))}",
                hint=f"add {path.parent / 'boards' / (config.board + '.yaml')}, or name a known board",
            )
        board = load_board(known[config.board])
        device = Device(name, board, _with_pack(config, path.parent), document.where(location), bench.labgrid)
        check_device(device, document.where(location))
        devices[name] = device
    if bench.labgrid is not None and bench.labgrid.discover:
        from lab.labgrid.places import discovered

        boards = {kind: load_board(file) for kind, file in known.items()}
        devices = discovered(bench.labgrid, boards, document.where(("labgrid",)), devices)
    return BenchConfig(path, devices, bench.labgrid)


def _with_pack(config: DeviceConfig, folder: Path) -> DeviceConfig:
    """The same with the place of a CMSIS-Pack made absolute; it is written as seen from the bench file."""
    if config.swd is None or config.swd.pack is None:
        return config
    swd = config.swd.model_copy(update={"pack": str((folder / config.swd.pack).absolute())})
    return config.model_copy(update={"swd": swd})


def board_files(folder: Path) -> dict[str, Path]:
    """Board kinds that a bench in ``folder`` can name; its own ``boards/`` comes before the lab's."""
    found: dict[str, Path] = {}
    for boards in (config_dir() / "boards", folder / "boards"):
        found.update({file.stem: file for file in sorted(boards.glob("*.yaml"))})
    return found


@lru_cache(maxsize=256)
def load_board(path: Path) -> Board:
    """Read and validate a board file.

    Raises:
        ConfigError: anything wrong, or a ``kind`` that is not the file's name.
    """
    document = read_yaml(path, _BENCH_HINT)
    board = validate(Board, document, _SCHEMA_HINT.format("board"))
    if board.kind != path.stem:
        raise ConfigError(
            f"{document.where(('kind',))}: kind: found '{board.kind}', must be the file's name '{path.stem}'",
            hint=f"write kind: {path.stem}, or rename the file to {board.kind}.yaml",
        )
    return board


def json_schema(model: Literal["bench", "board"] = "bench") -> dict[str, object]:
    """JSON Schema of a bench file or a board file, for editors."""
    schema = (BenchFile if model == "bench" else Board).model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
