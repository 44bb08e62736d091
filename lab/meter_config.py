"""Power meters as a bench file has them: one model per kind, told apart by ``kind``.

Every kind has ``emulated``, ``voltage_v`` and ``marker_input``, so that code above the meters need not tell them apart.
``voltage_v`` is the voltage a meter supplies, or is told that the device runs at; without it the board's nominal one
is taken. ``marker_input`` is the logic input the board's marker pin is wired to.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from lab.config_fields import Hertz, Seconds, Secret, Strict, Text, port_name, serial_number

_Inputs8 = Annotated[int, Field(ge=0, le=7)]
_Inputs4 = Annotated[int, Field(ge=0, le=3)]
_Inputs2 = Annotated[int, Field(ge=0, le=1)]
_Name = Annotated[str, Field(min_length=1)]
_TcpPort = Annotated[int, Field(gt=0, lt=65536)]
_Period = Annotated[Seconds, Field(gt=0)]


class SerialMeter(Strict):
    """A meter on a serial port: ``port``, or the USB ``serial_number`` its port is looked up by."""

    emulated: bool = False
    serial_number: str | None = None
    port: str | None = None

    _serial = field_validator("serial_number")(lambda value: None if value is None else serial_number(value))
    _port = field_validator("port")(lambda value: None if value is None else port_name(value))

    @model_validator(mode="after")
    def _reachable(self) -> SerialMeter:
        given = (self.serial_number is not None) + (self.port is not None)
        if self.emulated and given:
            raise ValueError("an emulated meter starts with its device: serial_number and port are not allowed")
        if not self.emulated and given != 1:
            raise ValueError("exactly one of serial_number and port is needed, or emulated: true")
        return self


class Ppk2Config(SerialMeter):
    """Nordic PPK2. ``source`` supplies the device; without it the meter measures a supply of the device's own."""

    kind: Literal["ppk2"]
    voltage_v: Annotated[float, Field(ge=0.8, le=5.0)] | None = None
    marker_input: _Inputs8 = 0
    source: bool = True


class Lpm01aConfig(SerialMeter):
    """ST X-NUCLEO-LPM01A in its dynamic mode. Its one logic input is D7.

    ``events``: the marker is high in regions (``levels``), or pulses at begin and end alike (``pulses``, as the time
    stamp pin of MLPerf Tiny does).
    """

    kind: Literal["lpm01a"]
    voltage_v: Annotated[float, Field(ge=1.8, le=3.3)] | None = None
    marker_input: Literal[0] = 0
    sample_rate: Literal[100_000, 50_000, 20_000, 10_000, 5_000, 2_000, 1_000, 500, 200, 100, 50, 20, 10, 5, 2, 1] = (
        1_000
    )
    format: Literal["ascii", "binary"] = "ascii"
    output: Literal["current", "energy"] = "current"
    function: Literal["optimum", "high"] = "optimum"
    trigger: Literal["software", "d7"] = "software"
    events: Literal["levels", "pulses"] = "levels"

    @model_validator(mode="after")
    def _rates(self) -> Lpm01aConfig:
        fastest = min(5_000 if self.format == "ascii" else 100_000, 10_000 if self.output == "energy" else 100_000)
        if self.sample_rate > fastest:
            raise ValueError(
                f"sample_rate {self.sample_rate} does not go on without end with format: {self.format} and "
                f"output: {self.output}; at most {fastest}, or format: binary"
            )
        if self.function == "high" and (self.output == "energy" or self.sample_rate < 50_000):
            raise ValueError("function: high needs output: current and a sample_rate of 50000 or 100000")
        return self


class OtiiConfig(Strict):
    """Qoitech Otii Arc or Ace through the Otii server's TCP port. ``device`` is its name; inputs 0, 1 are GPI 1, 2."""

    kind: Literal["otii"]
    emulated: bool = False
    host: _Name = "127.0.0.1"
    tcp_port: _TcpPort = 1905
    device: _Name | None = None
    voltage_v: Annotated[float, Field(ge=0.5, le=25.0)] | None = None
    marker_input: _Inputs2 = 0
    sample_rate: Hertz = 1_000
    limit_a: Annotated[float, Field(gt=0, le=5.0, description="current at which it switches off")] = 0.5
    username: Text | None = None
    password: Secret | None = None


class MonsoonConfig(Strict):
    """Monsoon HVPM. It has no logic input of its own: windows are found by the host's clock."""

    kind: Literal["monsoon"]
    emulated: Literal[False] = False
    serial_number: Annotated[int, Field(gt=0)] | None = None
    voltage_v: Annotated[float, Field(ge=0.8, le=13.5)] | None = None
    marker_input: Literal[0] = 0
    limit_a: Annotated[float, Field(gt=0, le=6.0, description="current at which it switches off")] = 6.0


class JoulescopeConfig(Strict):
    """Joulescope JS110 (inputs 0, 1) or JS220 (inputs 0 to 3); it measures the voltage itself."""

    kind: Literal["joulescope"]
    emulated: Literal[False] = False
    model: Literal["js110", "js220"]
    serial_number: _Name | None = None
    voltage_v: Annotated[float, Field(gt=0, le=15.0)] | None = None
    marker_input: _Inputs4 = 0
    sample_rate: Hertz = 1_000_000


class ScpiConfig(Strict):
    """A supply, source meter or multimeter by its VISA ``resource``; ``model`` chooses the dialect.

    ``trigger``: ``bus`` begins a record with a command, ``external`` with the instrument's trigger input, to which the
    board's marker pin is wired. ``limit_a`` is the current limit of a supply, ``range_a`` a fixed range.
    """

    kind: Literal["scpi"]
    emulated: bool = False
    resource: _Name | None = None
    model: Literal["n6705", "34465a", "2450", "ngu", "dp832", "spd3303x", "sdm3065x"]
    channel: Annotated[int, Field(ge=1, le=4)] = 1
    voltage_v: Annotated[float, Field(ge=0, le=200.0)] | None = None
    marker_input: Literal[0] = 0
    period: Seconds = 0.1
    trigger: Literal["bus", "external"] = "bus"
    limit_a: Annotated[float, Field(gt=0, le=10.0)] = 0.5
    range_a: Annotated[float, Field(gt=0, le=10.0)] | None = None

    @model_validator(mode="after")
    def _reachable(self) -> ScpiConfig:
        if self.emulated == (self.resource is not None):
            raise ValueError("exactly one of resource (a VISA address) and emulated: true is needed")
        if self.trigger == "external" and self.model not in ("n6705", "34465a", "2450"):
            raise ValueError(f"trigger: external: a {self.model} has no trigger input for its record; allowed: bus")
        return self


class OnBoardMeter(Strict):
    """A meter that may be part of the device itself, or of this computer.

    ``read_on: device`` reads it on the device where that is reached through SSH or ADB, else on this computer;
    ``lab`` always on this computer, to which the meter is then wired.
    """

    read_on: Literal["device", "lab"] = "device"


class HwmonConfig(OnBoardMeter):
    """An INA219, 226, 228, 238, 260 or 3221 behind Linux hwmon, or an INA3221 behind the iio driver of JetPack 4.

    Found by any of ``chip`` (its name), ``device`` (bus and address, such as ``1-0040``) and ``label`` (of a channel):
    they must leave one; the numbers of hwmonN change. ``period`` is by default the longest that the chip takes to
    update, at least 10 ms. ``shunt_ohm`` is for drivers that do not say. An emulated board's time is not the host's, by
    which this meter is aligned, so it cannot be emulated with a board.
    """

    kind: Literal["hwmon"]
    emulated: Literal[False] = False
    root: _Name = "/sys/class/hwmon"
    iio_root: _Name = "/sys/bus/i2c/drivers/ina3221x"
    chip: Literal["ina219", "ina226", "ina228", "ina238", "ina260", "ina3221"] | None = None
    device: _Name | None = None
    label: _Name | None = None
    channel: Annotated[int, Field(ge=1, le=3)] = 1
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: _Period | None = None
    shunt_ohm: Annotated[float, Field(gt=0)] | None = None
    shunt_tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.01


class TegrastatsConfig(OnBoardMeter):
    """Nvidia's tegrastats: the sum of some power ``rails``, from the program or from a ``file`` that it writes here."""

    kind: Literal["tegrastats"]
    emulated: Literal[False] = False
    rails: Annotated[tuple[_Name, ...], Field(strict=False, min_length=1)] = ("VDD_IN",)
    program: _Name = "tegrastats"
    file: _Name | None = None
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: Annotated[_Period, Field(ge=0.02)] = 0.1

    @model_validator(mode="after")
    def _file_here(self) -> TegrastatsConfig:
        if self.file is not None and self.read_on == "device" and "read_on" in self.model_fields_set:
            raise ValueError("file: is read on this computer: write read_on: lab with it")
        return self


class PmicConfig(OnBoardMeter):
    """The power management chip of a Raspberry Pi 5 by ``vcgencmd pmic_read_adc``: the sum of the rails it measures."""

    kind: Literal["pmic"]
    emulated: Literal[False] = False
    program: _Name = "vcgencmd"
    rails: Annotated[tuple[_Name, ...], Field(strict=False, min_length=1)] | None = None
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: _Period = 0.1


class NvmlConfig(OnBoardMeter):
    """The energy counter of an Nvidia GPU by its ``uuid`` (``nvidia-smi -L``); without it there must be only one."""

    kind: Literal["nvml"]
    emulated: Literal[False] = False
    uuid: _Name | None = None
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: _Period | None = None


class RaplConfig(OnBoardMeter):
    """The energy counter of a processor or one of its domains: ``package-0``, ``core``, ``dram``, ``psys`` …

    Where several packages have a domain of that name: ``package-1/dram``.
    """

    kind: Literal["rapl"]
    emulated: Literal[False] = False
    root: _Name = "/sys/class/powercap"
    domain: _Name = "package-0"
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: _Period = 0.1


class AndroidConfig(OnBoardMeter):
    """The battery gauge of a phone, over ADB that does not charge it (Wi-Fi, or USB with its power cut).

    ``serial`` is the phone's in ``adb devices``; a device of class phone is asked itself without it. Makers differ in
    what ``current_now`` says: ``current_sign`` is its sign while the battery discharges, ``current_unit`` its unit.
    """

    kind: Literal["android"]
    emulated: Literal[False] = False
    serial: _Name | None = None
    folder: _Name = "/sys/class/power_supply/battery"
    current_sign: Literal["negative", "positive"] = "negative"
    current_unit: Literal["uA", "mA"] = "uA"
    voltage_v: Annotated[float, Field(gt=0)] | None = None
    marker_input: Literal[0] = 0
    period: _Period = 1.0


MeterConfig: TypeAlias = Annotated[
    Ppk2Config
    | Lpm01aConfig
    | OtiiConfig
    | MonsoonConfig
    | JoulescopeConfig
    | ScpiConfig
    | HwmonConfig
    | TegrastatsConfig
    | PmicConfig
    | NvmlConfig
    | RaplConfig
    | AndroidConfig,
    Field(discriminator="kind"),
]


def is_on_device(config: MeterConfig) -> bool:
    """Whether a meter is read on the device, where that is reached through a network."""
    return isinstance(config, OnBoardMeter) and config.read_on == "device" and getattr(config, "file", None) is None
