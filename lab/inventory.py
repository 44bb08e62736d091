"""Devices, board kinds and benches from YAML: validated, with errors that say file, line, field and the way out.

A bench file lists devices; each names a board kind, a file ``boards/<kind>.yaml`` beside the bench file or in the lab's
own ``device_configs``. Importing this module is cheap on purpose: ``pytest --collect-only`` does.
"""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from lab.errors import ConfigError
from lab.paths import config_dir
from lab.units import parse_bytes, parse_hertz, parse_seconds

DeviceClass = Literal["mcu", "linux", "phone", "host"]
Plain: TypeAlias = "str | int | float | bool | SecretStr | list[Plain] | dict[str, Plain] | None"
Location: TypeAlias = tuple[str | int, ...]

_Model = TypeVar("_Model", bound=BaseModel)

_DEEPEST = 20
_BENCH_HINT = "name a bench with --lab-config or LAB_CONFIG; the emulated one is device_configs/emulated.yaml"
_SCHEMA_HINT = "the schema is {}.schema.json in device_configs"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
_PORT_RULE = (
    "/dev/serial/by-id/…, /dev/serial/by-path/…, socket://host:port, rfc2217://host:port, /dev/pts/N (tests), "
    "or by_id: with the USB serial number"
)


def _bytes_field(value: object) -> object:
    return _quantity(value, parse_bytes)


def _seconds_field(value: object) -> object:
    return _quantity(value, parse_seconds)


def _hertz_field(value: object) -> object:
    hertz = _quantity(value, parse_hertz)
    return int(hertz) if isinstance(hertz, float) and hertz.is_integer() else hertz


def _quantity(value: object, parse: Callable[[str], float]) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except ConfigError as error:
        raise ValueError(f"{error.message} ({error.hint})") from error


def _port_name(value: str) -> str:
    """Refuse names the kernel hands out in the order of plugging in."""
    if re.match(r"(/dev/)?(tty(ACM|USB|S|AMA)|cu\.)|COM\d+", value):
        raise ValueError(
            f"'{value}' is given out in the order in which boards are plugged in and may be another board tomorrow; "
            f"allowed: {_PORT_RULE}"
        )
    if not re.match(r"/dev/serial/by-(id|path)/.|/dev/pts/\d|(socket|rfc2217)://.", value):
        raise ValueError(f"'{value}' does not name a port for good; allowed: {_PORT_RULE}")
    return value


def _serial_number(value: str) -> str:
    if "/" in value and not value.startswith("/dev/serial/by-id/"):
        raise ValueError(f"'{value}' is neither a USB serial number nor a path /dev/serial/by-id/…")
    if re.match(r"tty(ACM|USB|S|AMA)\d|COM\d", value):
        raise ValueError(f"'{value}' is a port, not a USB serial number; allowed: {_PORT_RULE}")
    return value


def _from_environment_only(value: object) -> object:
    if isinstance(value, str):
        raise ValueError("a secret may not be written here in plain; allowed: !env NAME_OF_A_VARIABLE")
    return value


Bytes = Annotated[int, Field(ge=0), BeforeValidator(_bytes_field, json_schema_input_type=int | str)]
Seconds = Annotated[float, Field(ge=0), BeforeValidator(_seconds_field, json_schema_input_type=float | str)]
Hertz = Annotated[int, Field(gt=0), BeforeValidator(_hertz_field, json_schema_input_type=int | str)]
Names = Annotated[tuple[Annotated[str, Field(pattern=_NAME)], ...], Field(strict=False)]
Secret = Annotated[SecretStr, BeforeValidator(_from_environment_only)]
Text = str | SecretStr


def reveal(value: str | SecretStr) -> str:
    """The text of a value that may have come from ``!env``; for the call that needs it, never for a log."""
    return value.get_secret_value() if isinstance(value, SecretStr) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Memory(_Strict):
    """What a board offers, bytes. ``arena_limit_bytes`` is what one model may use at run time."""

    flash_bytes: Bytes
    ram_bytes: Bytes
    arena_limit_bytes: Bytes

    @model_validator(mode="after")
    def _arena_fits(self) -> Memory:
        if self.arena_limit_bytes > self.ram_bytes:
            raise ValueError(f"arena_limit_bytes {self.arena_limit_bytes} is more than ram_bytes {self.ram_bytes}")
        return self


class EnergyModel(_Strict):
    """A two-level current model: ``settle_s`` is the time constant of a step between idle and active."""

    idle_current_a: Annotated[float, Field(ge=0)]
    active_current_a: Annotated[float, Field(ge=0)]
    settle_s: Seconds
    source: Annotated[str, Field(min_length=1)]


class SharedMemory(_Strict):
    """A window of the guest that the host can map."""

    address: Annotated[int, Field(ge=0)]
    bytes: Bytes


class Emulator(_Strict):
    """How a board is emulated. One instruction takes ``2**icount_shift`` ns of virtual time (QEMU ``-icount``)."""

    kind: Literal["qemu"]
    machine: str
    icount_shift: Annotated[int, Field(ge=0, le=10)]
    shared_memory: SharedMemory | None = None
    marker_address: Annotated[int, Field(ge=0)] | None = None


class Board(_Strict):
    """A kind of board: ``boards/<kind>.yaml``."""

    kind: Annotated[str, Field(pattern=_NAME)]
    title: str
    device_class: DeviceClass
    cpu: str
    clock_hz: Hertz
    memory: Memory
    firmware_board: Annotated[str, Field(pattern=_NAME, description="folder in firmware/boards")] | None
    pyocd_target: str | None = None
    nominal_voltage_v: Annotated[float, Field(ge=0)]
    energy_model: EnergyModel | None = None
    emulator: Emulator | None = None
    features: Names = ()


class SerialPort(_Strict):
    """A serial port by what does not change: ``by_id`` (USB serial number or /dev/serial/by-id path) or ``port``."""

    by_id: str | None = None
    port: str | None = None
    baud: Annotated[int, Field(gt=0)] = 115200

    _by_id = field_validator("by_id")(lambda value: None if value is None else _serial_number(value))
    _port = field_validator("port")(lambda value: None if value is None else _port_name(value))

    @model_validator(mode="after")
    def _one_of(self) -> SerialPort:
        if (self.by_id is None) == (self.port is None):
            raise ValueError("exactly one of by_id and port is needed")
        return self


class SwdProbe(_Strict):
    """A debug probe by its serial number."""

    unique_id: str


class SshHost(_Strict):
    """A Linux device. ``host_key`` pins it: a line of ``ssh-keyscan`` without the host name."""

    host: Text
    user: Text
    key: Text | None = None
    host_key: str
    port: Annotated[int, Field(gt=0, lt=65536)] = 22
    password: Secret | None = None


class AdbDevice(_Strict):
    """A phone by its ADB serial number."""

    serial: str


class MeterConfig(_Strict):
    """A power meter and its wiring. ``marker_input`` is the logic input the board's marker pin is wired to."""

    kind: Literal["ppk2"]
    emulated: bool = False
    serial_number: str | None = None
    port: str | None = None
    voltage_v: Annotated[float, Field(ge=0.8, le=5.0)] | None = None
    marker_input: Annotated[int, Field(ge=0, le=7)] = 0

    _serial = field_validator("serial_number")(lambda value: None if value is None else _serial_number(value))
    _port = field_validator("port")(lambda value: None if value is None else _port_name(value))

    @model_validator(mode="after")
    def _reachable(self) -> MeterConfig:
        given = (self.serial_number is not None) + (self.port is not None)
        if self.emulated and given:
            raise ValueError("an emulated meter starts with its device: serial_number and port are not allowed")
        if not self.emulated and given != 1:
            raise ValueError("exactly one of serial_number and port is needed, or emulated: true")
        return self


class PowerSwitch(_Strict):
    """A switch in a device's supply: ``uhubctl`` (hub ``location``, port ``outlet``)."""

    kind: Literal["uhubctl"]
    location: Annotated[str, Field(pattern=r"^\d+(-\d+(\.\d+)*)?$")]
    outlet: Annotated[int, Field(gt=0)]


class DeviceConfig(_Strict):
    """A device as a bench file has it; see :class:`Device` for what the lab works with."""

    board: str
    emulated: bool = False
    serial: SerialPort | None = None
    swd: SwdProbe | None = None
    ssh: SshHost | None = None
    adb: AdbDevice | None = None
    meter: MeterConfig | None = None
    power_switch: PowerSwitch | None = None
    tags: Names = ()
    features: Names = ()


class BenchFile(_Strict):
    """The root of a bench file."""

    devices: dict[Annotated[str, Field(pattern=_NAME)], DeviceConfig]


@dataclass(frozen=True)
class Device:
    """A device of a bench, joined with its board.

    Attributes:
        name: name in the bench file.
        board: the board kind.
        config: how it is reached and metered.
        origin: ``file:line`` of its entry.
    """

    name: str
    board: Board
    config: DeviceConfig
    origin: str = ""

    @property
    def emulated(self) -> bool:
        """Whether the device is an emulator that each user starts for themselves."""
        return self.config.emulated

    @property
    def needs_lease(self) -> bool:
        """Whether two users would disturb each other: only hardware is one of its kind."""
        return not self.emulated and self.board.device_class != "host"

    @property
    def meter(self) -> MeterConfig | None:
        """The meter, None where the device is not metered."""
        return self.config.meter

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
    """

    path: Path
    devices: Mapping[str, Device] = field(default_factory=dict)


def load_bench(path: Path) -> BenchConfig:
    """Read and validate a bench file and the boards it names.

    Raises:
        ConfigError: anything wrong, with file, line, field, what was found and what is allowed.
    """
    document = _read_yaml(path, _BENCH_HINT)
    bench = _validate(BenchFile, document, _SCHEMA_HINT.format("bench"))
    known = board_files(path.parent)
    devices: dict[str, Device] = {}
    for name, config in bench.devices.items():
        location: Location = ("devices", name)
        if config.board not in known:
            raise ConfigError(
                f"{document.where((*location, 'board'))}: devices.{name}.board: unknown board '{config.board}'; "
                f"{_allowed(config.board, sorted(known))}",
                hint=f"add {path.parent / 'boards' / (config.board + '.yaml')}, or name a known board",
            )
        device = Device(name, load_board(known[config.board]), config, document.where(location))
        _check_device(device, document.where(location))
        devices[name] = device
    return BenchConfig(path, devices)


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
    document = _read_yaml(path, _BENCH_HINT)
    board = _validate(Board, document, _SCHEMA_HINT.format("board"))
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


def load_settings(path: Path, model: type[_Model], hint: str) -> _Model:
    """Read any other settings file by the same rules: strict, ``!env`` for secrets, errors with line and way out.

    Args:
        path: a YAML file.
        model: what it must hold.
        hint: where the keys are described.

    Raises:
        ConfigError: the file cannot be read, is no YAML or does not fit ``model``.
    """
    return _validate(model, _read_yaml(path, hint), hint)


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name most like ``name``, empty when none is near."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else ""


_CLASS_TRANSPORT: Mapping[str, str] = {"mcu": "serial", "linux": "ssh", "phone": "adb"}


def _check_device(device: Device, where: str) -> None:
    """Rules that need the board: what an emulated and a real device of its class must and must not have."""
    config, board, field_path = device.config, device.board, f"devices.{device.name}"
    reach = [key for key in ("serial", "swd", "ssh", "adb", "power_switch") if getattr(config, key) is not None]
    needed = _CLASS_TRANSPORT.get(board.device_class)
    if config.emulated and board.emulator is None:
        raise ConfigError(
            f"{where}: {field_path}.emulated: board '{board.kind}' has no emulator",
            hint=f"write emulated: false, or add emulator: to the board file of '{board.kind}'",
        )
    if config.emulated and reach:
        raise ConfigError(
            f"{where}: {field_path}: an emulated device starts with ports of its own; found {', '.join(reach)}",
            hint=f"remove {', '.join(reach)}, or write emulated: false",
        )
    if not config.emulated and needed is not None and needed not in reach:
        raise ConfigError(
            f"{where}: {field_path}: a device of class '{board.device_class}' on hardware needs {needed}:; "
            f"found {', '.join(reach) or 'no way to reach it'}",
            hint=f"add {needed}: or, for an emulator, emulated: true",
        )
    if config.meter is not None and config.meter.emulated and (not config.emulated or board.energy_model is None):
        raise ConfigError(
            f"{where}: {field_path}.meter.emulated: an emulated meter is fed by the energy model of an emulated "
            f"board; '{board.kind}' {'has none' if config.emulated else 'is used as hardware here'}",
            hint="remove the meter, or name the real one by serial_number:",
        )


# --- YAML with places -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Document:
    """Plain data of a YAML file and where each part of it stands."""

    path: Path
    data: Plain
    places: Mapping[Location, tuple[int, int]]

    def where(self, location: Location) -> str:
        """``file:line:column`` of the nearest enclosing part that is known."""
        for end in range(len(location), -1, -1):
            if location[:end] in self.places:
                line, column = self.places[location[:end]]
                return f"{self.path}:{line}:{column}"
        return str(self.path)


def _read_yaml(path: Path, hint: str) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        beside = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError(
            f"{path}: no such file" + (f"; {_allowed(path.name, beside)}" if beside else ""),
            hint=hint,
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}", hint="it has to be a UTF-8 text file") from error
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(
            f"{path}{place}: not YAML: {error.problem or error.context}",
            hint="check indentation and colons at this line and the one before",
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}", hint="it has to be plain text in YAML") from error
    places: dict[Location, tuple[int, int]] = {}
    data = _plain(node, (), path, places) if node is not None else {}
    return _Document(path, data, places)


def _plain(node: yaml.Node, location: Location, path: Path, places: dict[Location, tuple[int, int]]) -> Plain:
    """Turn YAML nodes into plain data, noting places; refuses duplicate keys and every tag but ``!env``."""
    places.setdefault(location, (node.start_mark.line + 1, node.start_mark.column + 1))
    where = f"{path}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
    if len(location) > _DEEPEST:
        raise ConfigError(f"{where}: nested deeper than {_DEEPEST} levels", hint="an alias may refer to itself")
    if node.tag.startswith("!"):
        return _from_environment(node, where, location)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                line = key_node.start_mark.line + 1
                raise ConfigError(
                    f"{path}:{line}:{key_node.start_mark.column + 1}: {_dotted((*location, key))}: key '{key}' stands "
                    f"twice, first on line {places[(*location, key)][0]}",
                    hint="remove or rename one of them",
                )
            places[(*location, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            result[key] = _plain(value_node, (*location, key), path, places)
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*location, index), path, places) for index, item in enumerate(node.value)]
    if node.tag == "tag:yaml.org,2002:timestamp":
        return str(node.value)
    try:
        value: Plain = yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.constructor.ConstructorError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{where}: {_dotted(location)}: found '{node.value}', which is no value of type {node.tag}",
            hint="put text in quotes, and leave out tags other than !env",
        ) from error
    return value


def _from_environment(node: yaml.Node, where: str, location: Location) -> SecretStr:
    if node.tag != "!env" or not isinstance(node, yaml.ScalarNode):
        raise ConfigError(
            f"{where}: {_dotted(location)}: unknown tag '{node.tag}'; allowed: !env NAME",
            hint="!env NAME takes the value from the environment variable NAME",
        )
    name = str(node.value)
    value = os.environ.get(name)
    if not value:
        raise ConfigError(
            f"{where}: {_dotted(location)}: the environment variable {name or '(no name)'} is not set",
            hint=f"export {name or 'NAME'}=…, or set it in the CI's secrets",
        )
    return SecretStr(value)


# --- errors that say what is allowed ----------------------------------------------------------------------------------

def _validate(model: type[_Model], document: _Document, hint: str) -> _Model:
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        problems = [_problem(model, document, details) for details in error.errors(include_url=False)]
    unique = list(dict.fromkeys(problems))
    if len(unique) == 1:
        raise ConfigError(unique[0], hint=hint)
    raise ConfigError(f"{document.path}: {len(unique)} problems\n  " + "\n  ".join(unique), hint=hint)


def _problem(model: type[BaseModel], document: _Document, details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    location: Location = tuple(details["loc"])
    known = location
    while known and known not in document.places and kind != "missing":
        known = known[:-1]
    place = f"{document.where(known)}: {_dotted(known) or 'the file'}"
    if kind == "extra_forbidden":
        fields = sorted(_fields_at(model, known[:-1]))
        return f"{place}: unknown key '{known[-1]}'; {_allowed(str(known[-1]), fields)}"
    if kind == "missing":
        return f"{place}: is missing; {_describe(model, known)}".rstrip("; ")
    if kind == "literal_error":
        choices = [str(choice) for choice in _literals_at(model, known)]
        return f"{place}: found {_shown(details['input'])}; {_allowed(str(details['input']), choices)}"
    if kind == "value_error":
        return f"{place}: {context['error']}"
    expected = details["msg"].removeprefix("Input should be ")
    return f"{place}: found {_shown(details['input'])}; allowed: {expected}"


def _shown(value: object) -> str:
    """A value for an error text; secrets stay hidden (SecretStr prints as stars)."""
    text = "a mapping" if isinstance(value, dict) else "nothing" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _allowed(name: str, known: Sequence[str]) -> str:
    guess = nearest(name, known)
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return f"{suggestion}allowed: {', '.join(known) or 'none'}"


def _dotted(location: Location) -> str:
    return ".".join(str(part) for part in location)


def _annotation_at(model: type[BaseModel], location: Location) -> object:
    """The annotation of the field at a place, through optional fields and mappings."""
    current: object = model
    for part in location:
        current = _stripped(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            info = current.model_fields.get(str(part))
            current = info.annotation if info else None
        elif get_origin(current) in (dict, tuple):
            current = get_args(current)[-1 if get_origin(current) is dict else 0]
        else:
            return None
    return _stripped(current)


def _stripped(annotation: object) -> object:
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        present = [item for item in get_args(annotation) if item is not type(None)]
        return _stripped(present[0])
    return annotation


def _fields_at(model: type[BaseModel], location: Location) -> list[str]:
    found = _annotation_at(model, location)
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _literals_at(model: type[BaseModel], location: Location) -> tuple[object, ...]:
    return get_args(_annotation_at(model, location))


def _describe(model: type[BaseModel], location: Location) -> str:
    choices = _literals_at(model, location)
    if choices and get_origin(_annotation_at(model, location)) is Literal:
        return f"allowed: {', '.join(str(choice) for choice in choices)}"
    fields = _fields_at(model, location)
    return f"its keys: {', '.join(fields)}" if fields else ""
