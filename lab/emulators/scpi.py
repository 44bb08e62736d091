"""Emulated SCPI instruments with a load that changes: the command subset of the families of ``lab.power.scpi_models``.

A client opens ``TCPIP::127.0.0.1::PORT::SOCKET``. Commands may be long or short (``MEASure:CURRent?``, ``MEAS:CURR?``).
What is not known goes into the error queue as -113, what is out of range as -222, as SCPI-1999 has it.

The instrument lives in device time. A record of an instrument with memory begins at the time the load has reached, or
at the marker's first rising edge where the trigger is the input; of a scripted load all of it is there at once. A
scalar instrument's answer to a question for the current is the mean of the next ``--period`` seconds of a script, or
of the last ones of a board. The mean over each sample is exact, so that the truth is known in closed form.

Run as a program it prints ``ready host:port`` once it can be used, and ends with its standard input or on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeAlias

import numpy as np

from lab.emulators.energy_model import EnergyModel
from lab.emulators.fault_options import add_fault_options, fault_arguments, faults_of
from lab.emulators.load import (
    MarkedLoad,
    MarkerSocket,
    ScriptedLoad,
    add_arguments,
    arguments_of_model,
    arguments_of_script,
    load_of,
)
from lab.emulators.meter_process import MeterProcess
from lab.emulators.meters import StartedMeter
from lab.errors import ConfigError
from lab.meter_config import MeterConfig, ScpiConfig

IDENTITIES: Mapping[str, str] = {
    "n6705": "Keysight Technologies,N6705C,MY00000000,E.02.07.3271",
    "34465a": "Keysight Technologies,34465A,MY00000000,A.03.01-03.15-03.01-00.52-04-02",
    "2450": "KEITHLEY INSTRUMENTS,MODEL 2450,00000000,1.7.12b",
    "ngu": "Rohde&Schwarz,NGU401,3639.3763k04/100000,03.150",
    "dp832": "RIGOL TECHNOLOGIES,DP832,DP8C000000000,00.01.16",
    "spd3303x": "Siglent Technologies,SPD3303X,SPD00000000000,1.01.01.02.07R2,V3.0",
    "sdm3065x": "Siglent Technologies,SDM3065X,SDM00000000000,3.01.01.10",
}
MEMORY_READINGS = 50_000
HIGHEST_V = 60.0

_OVER = 9.9e37
_GAP = 9.91e37
_NANOSECONDS = 1_000_000_000
_FASTLOG_HZ = {"S100": 100, "S001K": 1_000, "S010K": 10_000, "S050K": 50_000, "S250K": 250_000, "S500K": 500_000}
_Load: TypeAlias = MarkedLoad | ScriptedLoad
Answer: TypeAlias = str | bytes | None
Handler: TypeAlias = Callable[[list[str]], Answer]


@dataclass(frozen=True)
class Faults:
    """What the instrument does wrong. Numbers are in samples or commands since its start; 0 means never.

    Attributes:
        drop_every: of every so many samples of a record the last one is not in memory.
        duplicate_every: every so many samples one is in memory twice.
        corrupt_every: every so many samples one is no number.
        range_every: every so many samples the range changes and the reading of that time is 9.91E37.
        top_a: readings above this are 9.9E37, ampere.
        disconnect_after: after so many commands the connection breaks.
        refuse: the header that is answered with an error in the queue.
        deaf_to: the header that is never answered.
        error: text that is in the error queue after each record.
        identity: what it calls itself.
        stuck_output: the output stays as it is, whatever it is told.
    """

    drop_every: int = 0
    duplicate_every: int = 0
    corrupt_every: int = 0
    range_every: int = 0
    top_a: float = 0.0
    disconnect_after: int = 0
    refuse: str = ""
    deaf_to: str = ""
    error: str = ""
    identity: str = ""
    stuck_output: int = 0


@dataclass(frozen=True)
class Reading:
    """One sample in memory: texts of current and voltage, and seconds since the trigger."""

    current: str
    voltage: str
    time_s: float


def short(header: str) -> str:
    """The short form of a header: four letters of each word, three where the fourth is a vowel (SCPI-1999, 6.2.1)."""
    return ":".join(_short_word(word) for word in header.upper().strip(":").split(":"))


def _short_word(word: str) -> str:
    name = word.rstrip("0123456789")
    number = word[len(name) :]
    if len(name) > 4 and not name.startswith("*"):
        name = name[:3] if name[3] in "AEIOU" else name[:4]
    return name + number


class Instrument:
    """The behaviour without its socket: command lines in, answers out.

    Args:
        model: one of :data:`IDENTITIES`.
        load: what it measures.
        period_s: of scalar instruments, how much device time an answer stands for.
        faults: what it does wrong.
    """

    def __init__(self, model: str, load: _Load, period_s: float, faults: Faults = Faults()) -> None:
        self._model = model
        self._load = load
        self._faults = faults
        self._step_s = period_s
        self._scalars = 0
        self._last_voltage = 0.0
        self._errors: list[str] = []
        self._settings: dict[str, str] = {}
        self.output = False
        self._armed = False
        self._edge_s: float | None = None
        self._begin_s: float | None = None
        self._made = self._told = 0
        self._memory: list[Reading] = []
        self._handlers = self._common() | {
            "n6705": self._n6705,
            "34465a": self._truevolt,
            "2450": self._keithley,
            "ngu": self._rohde_schwarz,
            "dp832": self._rigol,
            "spd3303x": self._siglent_supply,
            "sdm3065x": self._siglent_meter,
        }[model]()

    def command(self, line: str) -> Answer:
        """Work off one command; the answer to a query, None where there is none."""
        header, _, arguments = line.strip().partition(" ")
        query = header.endswith("?")
        name = short(header.rstrip("?")) + ("?" if query else "")
        if name == self._faults.deaf_to:
            return None
        handler = self._handlers.get(name)
        if handler is None or name == self._faults.refuse:
            self._errors.append('-113,"Undefined header"')
            return None
        return handler([part.strip() for part in arguments.split(",")])

    def marked(self) -> None:
        """The board's marker rose."""
        if self._armed and self._edge_s is None:
            self._edge_s = self._now_s()

    def _common(self) -> dict[str, Handler]:
        return {
            "*IDN?": lambda _: self._faults.identity or IDENTITIES[self._model],
            "*CLS": lambda _: self._errors.clear(),
            "*RST": lambda _: self._settings.clear(),
            "*OPC?": lambda _: "1",
            "SYST:ERR?": lambda _: self._errors.pop(0) if self._errors else '+0,"No error"',
        }

    def _n6705(self) -> dict[str, Handler]:
        kept = ("FORM", "CURR:LIM", "SENS:ELOG:FUNC:VOLT", "SENS:ELOG:FUNC:CURR", "SENS:ELOG:CURR:RANG:AUTO")
        return {
            **self._keeping(*kept, "SENS:ELOG:CURR:RANG", "TRIG:ELOG:SOUR"),
            "VOLT": self._set_voltage,
            "OUTP": self._switch,
            "SENS:ELOG:PER": self._keep_period,
            "SENS:ELOG:PER?": lambda _: self._period_text(20.48e-6),
            "ABOR:ELOG": self._abort,
            "INIT:ELOG": lambda _: self._arm(self._settings.get("TRIG:ELOG:SOUR") == "EXT"),
            "*TRG": self._trigger,
            "FETC:ELOG?": lambda a: ",".join(f"{r.voltage},{r.current}" for r in self._take(int(a[0]))),
        }

    def _truevolt(self) -> dict[str, Handler]:
        kept = ("CONF:CURR:DC", "SENS:CURR:DC:ZERO:AUTO", "SENS:CURR:DC:APER:ENAB", "SENS:CURR:DC:APER", "SAMP:SOUR")
        return {
            **self._keeping(*kept, "SAMP:COUN", "TRIG:SOUR", "TRIG:COUN"),
            "SAMP:TIM": self._keep_period,
            "SAMP:TIM?": lambda _: self._period_text(1e-6),
            "ABOR": self._abort,
            "INIT": lambda _: self._arm(self._settings.get("TRIG:SOUR") == "EXT"),
            "*TRG": self._trigger,
            "DATA:POIN?": lambda _: str(len(self._stored()[-MEMORY_READINGS:])),
            "DATA:REM?": lambda a: ",".join(r.current for r in self._take(int(a[0]))),
        }

    def _keithley(self) -> dict[str, Handler]:
        kept = ("SOUR:FUNC", "SOUR:VOLT:ILIM", "SOUR:VOLT:READ:BACK", "SENS:FUNC", "SENS:CURR:NPLC", "SENS:CURR:RANG")
        blocks = ("TRIG:LOAD", "TRIG:BLOC:BUFF:CLE", "TRIG:BLOC:WAIT", "TRIG:BLOC:MEAS", "TRIG:BLOC:BRAN:ALW")
        timer = ("TRIG:TIM1:COUN", "TRIG:TIM1:STAR:GEN", "TRIG:TIM1:STAR:STIM", "TRIG:TIM1:STAT")
        return {
            **self._keeping(*kept, *blocks, *timer, "SENS:CURR:RANG:AUTO", "TRAC:MAKE"),
            "SOUR:VOLT": self._set_voltage,
            "OUTP": self._switch,
            "TRIG:TIM1:DEL": self._keep_period,
            "TRIG:TIM1:DEL?": lambda _: self._period_text(1e-6),
            "ABOR": self._abort,
            "INIT": lambda _: self._arm(self._settings.get("TRIG:TIM1:STAR:STIM") == "EXT"),
            "*TRG": self._trigger,
            "TRAC:ACT?": lambda _: str(len(self._stored())),
            "TRAC:DATA?": self._trace,
        }

    def _rohde_schwarz(self) -> dict[str, Handler]:
        return {
            **self._keeping("CURR", "SENS:CURR:RANG", "SENS:CURR:RANG:AUTO", "FLOG:TARG"),
            "VOLT": self._set_voltage,
            "OUTP": self._switch,
            "FLOG:SRAT": self._set_rate,
            "FLOG:SRAT?": lambda _: self._settings.setdefault("rate", "S100"),
            "FLOG:STAT": lambda a: self._trigger(a) if a[0] == "1" else self._end_log(a),
            "FLOG:DATA?": lambda _: _block([x for r in self._take(1 << 20) for x in (r.voltage, r.current)]),
            "STAT:OPER:INST:ISUM1:EVEN?": lambda _: str((1 << 12) * bool(self._stored())),
            "STAT:QUES:INST:ISUM1:EVEN?": lambda _: self._skipped(),
        }

    def _set_rate(self, arguments: list[str]) -> None:
        if arguments[0].upper() not in _FASTLOG_HZ:
            self._errors.append('-224,"Illegal parameter value"')
            return
        self._settings["rate"] = arguments[0].upper()
        self._settings["period"] = repr(1.0 / _FASTLOG_HZ[arguments[0].upper()])

    def _end_log(self, arguments: list[str]) -> None:
        self._abort(arguments)
        self._memory.clear()
        self._made = self._told = 0

    def _skipped(self) -> str:
        """Whether samples are not in memory that should be, since it was asked last."""
        gone = sum(_strikes(self._faults.drop_every, k) for k in range(self._told, self._made))
        self._told = self._made
        return str((1 << 11) * bool(gone))

    def _rigol(self) -> dict[str, Handler]:
        return {"APPL": self._apply, "OUTP": self._switch, "MEAS:ALL?": self._all, "MEAS:CURR?": self._current}

    def _siglent_supply(self) -> dict[str, Handler]:
        channels = {f"CH{n}:VOLT": self._set_voltage for n in (1, 2, 3)}
        return {
            **self._keeping("CH1:CURR", "CH2:CURR", "CH3:CURR"),
            **channels,
            "OUTP": self._switch,
            "MEAS:CURR?": self._current,
            "MEAS:VOLT?": lambda _: _text(self._last_voltage),
        }

    def _siglent_meter(self) -> dict[str, Handler]:
        return {**self._keeping("CONF:CURR:DC"), "READ?": self._current}

    def _keeping(self, *headers: str) -> dict[str, Handler]:
        def keep(header: str) -> Handler:
            return lambda arguments: self._settings.update({header: arguments[0]})

        return {header: keep(header) for header in headers}

    def _set_voltage(self, arguments: list[str]) -> None:
        if not 0 <= float(arguments[0]) <= HIGHEST_V:
            self._errors.append('-222,"Data out of range"')

    def _apply(self, arguments: list[str]) -> None:
        self._set_voltage(arguments[1:])

    def _switch(self, arguments: list[str]) -> None:
        told = next((word.upper() for word in arguments if word.upper() in ("ON", "OFF")), None)
        if told is None:
            self._errors.append('-109,"Missing parameter"')
        elif not self._faults.stuck_output:
            self.output = told == "ON"

    def _keep_period(self, arguments: list[str]) -> None:
        self._settings["period"] = arguments[0]

    def _period_text(self, step_s: float) -> str:
        """Instruments count their period in steps."""
        steps = max(1, round(float(self._settings.get("period", "0.1")) / step_s))
        self._settings["period"] = repr(steps * step_s)
        return f"{steps * step_s:.9E}"

    def _arm(self, external: bool) -> None:
        self._memory.clear()
        self._made, self._begin_s, self._edge_s = 0, None, None
        self._armed = external
        if external and isinstance(self._load, ScriptedLoad):
            self._edge_s = next((time_s for time_s, up in self._load.edges_s() if up), None)

    def _trigger(self, arguments: list[str]) -> None:
        self._begin_s = 0.0 if isinstance(self._load, ScriptedLoad) else self._now_s()

    def _abort(self, arguments: list[str]) -> None:
        if self._begin_s is not None and self._faults.error:
            self._errors.append(self._faults.error)
        self._stored()
        self._begin_s, self._armed, self._edge_s = None, False, None

    def _now_s(self) -> float:
        return self._load.due(_NANOSECONDS) / _NANOSECONDS

    def _stored(self) -> list[Reading]:
        """Memory, with all samples that the load has reached."""
        begin_s = self._edge_s if self._begin_s is None else self._begin_s
        if begin_s is None:
            return self._memory
        period_s = float(self._settings.get("period", "0.01"))
        due = int((self._now_s() - begin_s) / period_s + 1e-6)
        for k in range(self._made, due):
            self._store(k, begin_s, period_s)
        self._made = max(self._made, due)
        return self._memory

    def _store(self, k: int, begin_s: float, period_s: float) -> None:
        at_s = begin_s + k * period_s
        current_a, voltage_v = self._mean(at_s, at_s + period_s)
        shown = self._shown(current_a, k)
        if _strikes(self._faults.drop_every, k):
            return
        reading = Reading(shown, _text(voltage_v), k * period_s)
        self._memory.append(reading)
        if _strikes(self._faults.duplicate_every, k):
            self._memory.append(reading)

    def _shown(self, current_a: float, k: int) -> str:
        if _strikes(self._faults.corrupt_every, k):
            return "+4.#7E-03"
        if _strikes(self._faults.range_every, k):
            return _text(_GAP)
        if self._faults.top_a and current_a > self._faults.top_a:
            return _text(_OVER)
        return _text(current_a)

    def _mean(self, begin_s: float, end_s: float) -> tuple[float, float]:
        """Mean current and the voltage whose product with it is the mean power; nothing with the output off."""
        if not self.output and self._model not in ("34465a", "sdm3065x"):
            return 0.0, 0.0
        truth = self._load.truth(begin_s, end_s)
        if not truth.charge_c:
            return 0.0, self._load.samples(0, 1, 1).voltage_v[0]
        return truth.mean_current_a, truth.energy_j / truth.charge_c

    def _take(self, most: int) -> list[Reading]:
        stored = self._stored()
        # The oldest are overwritten when memory is full.
        if self._model == "34465a":
            del stored[:-MEMORY_READINGS]
        taken = stored[:most]
        del stored[:most]
        return taken

    def _trace(self, arguments: list[str]) -> str:
        first, last = int(arguments[0]), int(arguments[1])
        return ",".join(f"{r.current},{r.voltage},{r.time_s:.6E}" for r in self._stored()[first - 1 : last])

    def _current(self, arguments: list[str]) -> str:
        k, self._scalars = self._scalars, self._scalars + 1
        end_s = self._now_s() if isinstance(self._load, MarkedLoad) else (k + 1) * self._step_s
        current_a, self._last_voltage = self._mean(max(end_s - self._step_s, 0.0), max(end_s, self._step_s))
        return self._shown(current_a, k)

    def _all(self, arguments: list[str]) -> str:
        current = self._current(arguments)
        return f"{self._last_voltage:.4f},{current},0.000"


def _strikes(every: int, k: int) -> bool:
    return every > 0 and k % every == every - 1


def _block(texts: list[str]) -> bytes:
    """A definite-length block of little-endian 32-bit floats (IEEE 488.2, 8.7.9); what is no number is NaN."""
    data = np.array(["nan" if "#" in text else text for text in texts], "<f4").tobytes()
    size = str(len(data)).encode()
    return b"#%d%s%s" % (len(size), size, data)


def _text(value: float) -> str:
    return f"{value:+.9E}"


class _Server:
    """Serves one client after the other, and the marker socket."""

    def __init__(self, marker: Path, load: _Load, instrument: Instrument, disconnect_after: int) -> None:
        self._load = load
        self._instrument = instrument
        self._disconnect_after = disconnect_after
        self._commands = 0
        self._selector = selectors.DefaultSelector()
        self._marker = MarkerSocket(marker, self._selector)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)
        self._client: socket.socket | None = None
        self._received = b""

    def serve(self) -> None:
        """Work until standard input ends."""
        host, port = self._listener.getsockname()
        print(f"ready {host}:{port}", flush=True)
        while True:
            for key, _ in self._selector.select():
                if key.fd == sys.stdin.fileno() and not os.read(key.fd, 64):
                    return
                if key.fileobj is self._listener:
                    self._accept()
            self._use_markers()
            self._read()

    def close(self) -> None:
        """Remove what others could find."""
        self._marker.close()
        self._listener.close()

    def _accept(self) -> None:
        self._drop()
        self._client, _ = self._listener.accept()
        # A client gets each answer when it is written, not when the one before it was acknowledged.
        self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._client.setblocking(False)
        self._selector.register(self._client, selectors.EVENT_READ)

    def _use_markers(self) -> None:
        self._marker.fetch()
        for edge in self._marker.take():
            if not isinstance(self._load, MarkedLoad):
                continue
            if edge is None:
                self._load.restart()
                continue
            self._load.mark(*edge)
            if edge[1] & 1:
                self._instrument.marked()

    def _read(self) -> None:
        if self._client is None:
            return
        try:
            data = self._client.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._drop()
            return
        *lines, self._received = (self._received + data).split(b"\n")
        for line in lines:
            self._work(line.decode("ascii", "replace"))

    def _work(self, line: str) -> None:
        self._commands += 1
        if self._commands == self._disconnect_after:
            self._drop()
        if self._client is None:
            return
        # A client that asks must see what the board told before.
        self._use_markers()
        answer = self._instrument.command(line)
        if answer is not None:
            self._client.setblocking(True)
            with contextlib.suppress(ConnectionError):
                self._client.sendall((answer if isinstance(answer, bytes) else answer.encode()) + b"\n")
            self._client.setblocking(False)

    def _drop(self) -> None:
        client, self._client = self._client, None
        self._received = b""
        if client is not None:
            self._selector.unregister(client)
            client.close()


class EmulatedScpi:
    """An emulated instrument in a process of its own; use it as a context manager.

    Args:
        folder: where its socket and its log are made; must exist.
        model: one of :data:`IDENTITIES`.
        clock_hz: rate of the cycle counter in the marker frames.
        load: of the board; a script is played from its begin with each record and needs no marker.
        period_s: of scalar instruments, how much device time an answer stands for.
        faults: what it does wrong.
    """

    def __init__(
        self,
        folder: Path,
        model: str,
        clock_hz: int,
        load: EnergyModel | ScriptedLoad,
        *,
        period_s: float = 0.1,
        faults: Faults = Faults(),
    ) -> None:
        self._folder = folder
        self._model = model
        self._clock_hz = clock_hz
        self._load = load
        self._period_s = period_s
        self._faults = faults
        self._process = MeterProcess("the emulated SCPI instrument", "lab.emulators.scpi", folder, "scpi")
        self._address = ""

    @property
    def marker_path(self) -> Path:
        """UNIX socket that listens for the board's second UART."""
        return self._process.marker_path

    @property
    def address(self) -> str:
        """``host:port``."""
        return self._address

    @property
    def resource(self) -> str:
        """VISA address."""
        host, _, port = self._address.partition(":")
        return f"TCPIP::{host}::{port}::SOCKET"

    def __enter__(self) -> Self:
        if isinstance(self._load, ScriptedLoad):
            arguments = arguments_of_script(self._load, self._folder / "scpi.npy")
        else:
            arguments = arguments_of_model(self._load, self._clock_hz)
        arguments += ["--model", self._model, "--period", str(self._period_s)]
        arguments += fault_arguments(self._faults)
        self._address = self._process.start(arguments)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


def peer(
    config: MeterConfig, folder: Path, clock_hz: int, model: EnergyModel, stack: contextlib.ExitStack
) -> StartedMeter:
    """The emulated instrument of a bench entry, started; see :func:`lab.emulators.meters.start_meter`."""
    if not isinstance(config, ScpiConfig):
        raise ConfigError(f"a SCPI instrument was asked to be a meter of kind {config.kind!r}")
    running = stack.enter_context(EmulatedScpi(folder, config.model, clock_hz, model, period_s=config.period))
    filled = config.model_copy(update={"resource": running.resource})
    return StartedMeter(running.marker_path, running.address, filled)


def main() -> None:
    """Run the emulated instrument until standard input ends."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    parser = argparse.ArgumentParser(prog="python -m lab.emulators.scpi", description="An emulated SCPI instrument")
    add_arguments(parser)
    parser.add_argument("--model", choices=tuple(IDENTITIES), required=True)
    parser.add_argument("--period", type=float, default=0.1, help="device time of a scalar answer, s")
    add_fault_options(parser, Faults)
    options = parser.parse_args()
    load = load_of(options)
    faults = faults_of(options, Faults)
    instrument = Instrument(options.model, load, options.period, faults)
    signal.signal(signal.SIGTERM, terminate)
    with contextlib.closing(_Server(options.marker, load, instrument, faults.disconnect_after)) as server:
        server.serve()


if __name__ == "__main__":
    main()
