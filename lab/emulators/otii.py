"""An emulated Otii server with one Otii Arc: JSON over TCP, in device time.

The rules about time are those of :mod:`lab.emulators.ppk2`: a recording begins a little before the first marker after
its start and goes on with the marker; a scripted load is there whole as soon as a recording runs. Marker bits 0 and 1
are the general-purpose inputs 1 and 2. The main voltage is sampled at a fourth of the rate of the current.

Run as a program it prints ``ready <host:port>`` once it can be used, and ends with its standard input or on SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias

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

if TYPE_CHECKING:
    from lab.meter_config import MeterConfig

ROLL_S = 10e-3
DEVICE_ID = "Arc0000000000000000000000000000001"

_VOLTAGE_DIVISOR = 4
_LICENCE = 7
_RATES = (1_000, 4_000, 10_000, 50_000)

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Data: TypeAlias = dict[str, Json]


class Refusal(Exception):
    """A request is answered with an error of this code."""


@dataclass(frozen=True)
class Faults:
    """What the emulated server does wrong. Numbers are in samples of the current; 0 means never.

    Attributes:
        drop_every: every so many samples one is missing: an answer ends before it, the next begins after it.
        duplicate_every: behind every so many samples the last of them is there again, with its time.
        corrupt_every: every so many samples a value is null.
        disconnect_after: it hangs up when samples beyond this one are asked for.
        refuse: the command that is answered with an error.
        licensed: whether an automation licence is to be had: ``free``, ``taken``, or ``login`` where it takes one.
    """

    drop_every: int = 0
    duplicate_every: int = 0
    corrupt_every: int = 0
    disconnect_after: int = 0
    refuse: str = ""
    licensed: str = "free"


class Server:
    """The server's behaviour, without its ports: requests in, answers out.

    Args:
        load: what the Arc measures.
        faults: what it does wrong.
        newest: has the load told the marker's last word, before a recording ends.
    """

    def __init__(self, load: MarkedLoad | ScriptedLoad, faults: Faults, newest: Callable[[], None]) -> None:
        self._load = load
        self._faults = faults
        self._newest = newest
        self._main = False
        self._limit_a = 5.0
        self._voltage_v = 3.3
        self._rate = 4_000
        self._reserved = False
        self._logged_in = False
        self._running = False
        self._recordings = 0
        self._begin: int | None = None
        self._end: int | None = None
        self._current: list[float | None] = []
        self._edges: dict[str, list[Json]] = {"i1": [], "i2": []}
        self._bits = 0
        self.hangs_up = False
        self._answers: dict[str, Callable[[Data], Data | None]] = {
            "otii_is_logged_in": lambda _: {"logged_in": self._logged_in},
            "otii_login": self._login,
            "otii_logout": self._logout,
            "otii_has_license": lambda _: {"has_license": self._reserved},
            "otii_get_licenses": self._licences,
            "otii_reserve_license": lambda data: self._reserve(data, True),
            "otii_return_license": lambda data: self._reserve(data, False),
            "otii_get_devices": lambda _: {"devices": [{"device_id": DEVICE_ID, "name": "Lab Arc", "type": "Arc"}]},
            "otii_get_active_project": lambda _: {"project_id": -1},
            "otii_create_project": lambda _: {"project_id": 1},
            "arc_add_to_project": lambda _: None,
            "arc_set_max_current": self._set_limit,
            "arc_set_main_voltage": self._set_voltage,
            "arc_set_exp_voltage": lambda _: None,
            "arc_enable_exp_port": lambda _: None,
            "arc_enable_channel": lambda _: None,
            "arc_set_channel_samplerate": self._set_rate,
            "arc_get_channel_samplerate": lambda _: {"value": self._rate},
            "arc_set_main": self._set_main,
            "arc_get_main": lambda _: {"value": self._main},
            "project_start_recording": self._start,
            "project_stop_recording": self._stop,
            "project_get_last_recording": lambda _: {"recording_id": self._recordings - 1, "name": "Recording"},
            "recording_delete": lambda _: None,
            "recording_get_channel_data_count": lambda data: {"count": self._count(str(data["channel"]))},
            "recording_get_channel_data": self._data,
        }

    def answer_to(self, line: bytes) -> Data:
        """The answer to a line."""
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict):
            details: Data = {"parse_error": "not an object", "data": line.decode("utf-8", "replace")}
            return {"type": "error", "cmd": "", "errorcode": "Not able to parse request", "data": details}
        return self.answer(request)

    def answer(self, request: Data) -> Data:
        """The answer to a request."""
        command, data = str(request.get("cmd")), request.get("data")
        common: Data = {"cmd": command, "trans_id": request.get("trans_id")}
        try:
            if command not in self._answers:
                raise Refusal("Invalid command")
            if command == self._faults.refuse:
                raise Refusal("Command failure")
            found = self._answers[command](data if isinstance(data, dict) else {})
        except KeyError as error:
            missing: Data = {"key": str(error.args[0])}
            return common | {"type": "error", "errorcode": "Missing key in request", "data": missing}
        except Refusal as error:
            # Each code has fields of its own; clients look for theirs.
            details: Data = {"message": "emulated", "key": "value", "value": request.get("data")}
            return common | {"type": "error", "errorcode": str(error), "data": details}
        return common | {"type": "response"} | ({} if found is None else {"data": found})

    def marked(self) -> None:
        """The marker changed."""
        if self._running and self._begin is None:
            self._begin = max(self._load.due(self._rate) - round(ROLL_S * self._rate), 0)
        elif not self._running:
            self._load.forget(self._load.due(self._rate) / self._rate - 2 * ROLL_S)

    def _login(self, data: Data) -> Data | None:
        if data["username"] != "lab" or data["password"] != "secret":
            raise Refusal("Could not login")
        self._logged_in = True
        return None

    def _logout(self, _: Data) -> Data | None:
        self._logged_in = False
        return None

    def _licences(self, _: Data) -> Data:
        mode = self._faults.licensed
        there = mode == "free" or (mode == "login" and self._logged_in)
        owner = "lab" if self._reserved else "" if there else "somebody else"
        one: Json = {"id": _LICENCE, "type": "Automation", "available": there, "reserved_to": owner, "hostname": ""}
        return {"licenses": [one]}

    def _reserve(self, data: Data, reserved: bool) -> Data | None:
        if data["license_id"] != _LICENCE or self._reserved == reserved:
            raise Refusal("License could not be reserved" if reserved else "License could not be returned")
        self._reserved = reserved
        return None

    def _set_main(self, data: Data) -> Data | None:
        self._need_licence()
        self._main = data["enable"] is True
        return None

    def _set_limit(self, data: Data) -> Data | None:
        self._limit_a = self._number(data, 0.001, 5.0)
        return None

    def _set_voltage(self, data: Data) -> Data | None:
        self._voltage_v = self._number(data, 0.5, 5.0)
        return None

    def _set_rate(self, data: Data) -> Data | None:
        rate = self._number(data, 1, 50_000)
        # As an Arc does: the nearest rate it has.
        self._rate = min(_RATES, key=lambda one: abs(one - rate)) if data["channel"] == "mc" else self._rate
        return None

    def _number(self, data: Data, least: float, most: float) -> float:
        value = data["value"]
        if not isinstance(value, int | float) or not least <= value <= most:
            raise Refusal("Invalid key value")
        return float(value)

    def _need_licence(self) -> None:
        if not self._reserved:
            raise Refusal("No license")

    def _start(self, _: Data) -> Data | None:
        self._need_licence()
        self._running, self._end = True, None
        self._begin = None if self._load.follows_marker else 0
        self._current, self._bits = [], 0
        self._edges = {"i1": [], "i2": []}
        self._recordings += 1
        return None

    def _stop(self, _: Data) -> Data | None:
        if not self._running:
            raise Refusal("Operation not supported")
        self._newest()
        roll = round(ROLL_S * self._rate) if self._load.follows_marker else 0
        self._end = self._load.due(self._rate) + roll
        self._record()
        self._running = False
        return None

    def _record(self) -> None:
        """Add what is due to the recording."""
        if not self._running or self._begin is None:
            return
        begin = self._begin + len(self._current)
        end = self._load.due(self._rate) if self._end is None else self._end
        if end <= begin:
            return
        shown = self._load.samples(begin, end, self._rate)
        current = shown.current_a if self._main else np.zeros(end - begin)
        over = np.flatnonzero(current > self._limit_a)
        if over.size:
            # It trips: the sample is cut off, and there is no current after it.
            current[over[0]] = self._limit_a
            current[over[0] + 1 :] = 0.0
            self._main = False
        for bit, edges in enumerate(self._edges.values()):
            level = (shown.bits >> bit & 1).astype(np.int8)
            for k in np.flatnonzero(np.diff(level, prepend=np.int8(self._bits >> bit & 1))):
                edges.append({"timestamp": (len(self._current) + int(k)) / self._rate, "value": bool(level[k])})
        self._bits = int(shown.bits[-1])
        self._current += current.tolist()

    def _count(self, channel: str) -> int:
        self._record()
        if channel == "mv":
            return -(-len(self._current) // _VOLTAGE_DIVISOR)
        if channel in ("i1", "i2"):
            return len(self._edges[channel])
        there, faults = len(self._current), self._faults
        lost = there // faults.drop_every if faults.drop_every else 0
        again = there // faults.duplicate_every if faults.duplicate_every else 0
        return there - lost + again

    def _data(self, data: Data) -> Data:
        channel, index, count = str(data["channel"]), data["index"], data["count"]
        if not isinstance(index, int) or not isinstance(count, int) or index + count > self._count(channel):
            raise Refusal("Invalid key value")
        if channel in ("i1", "i2"):
            return {"data_type": "digital", "values": self._edges[channel][index : index + count]}
        if channel == "mv":
            interval_s = _VOLTAGE_DIVISOR / self._rate
            volts: list[Json] = [self._voltage_v] * count
            return {"data_type": "analog", "timestamp": index * interval_s, "interval": interval_s, "values": volts}
        return self._current_data(index, count)

    def _current_data(self, index: int, count: int) -> Data:
        faults = self._faults
        self.hangs_up = bool(faults.disconnect_after) and index + count > faults.disconnect_after
        every = faults.drop_every
        if every:
            # Of each ``every`` samples the last is not there; a run of samples ends before it.
            count = min(count, every - 1 - index % (every - 1))
            index += index // (every - 1)
        again = faults.duplicate_every
        if again:
            # A run of samples has one interval, so it ends before the one that is there again.
            group, place = divmod(index, again + 1)
            count = min(count, max(again - place, 1))
            index = group * again + min(place, again - 1)
        values: list[Json] = list(self._current[index : index + count])
        if faults.corrupt_every:
            for k in range(count):
                if (index + k) % faults.corrupt_every == faults.corrupt_every - 1:
                    values[k] = None
        return {"data_type": "analog", "timestamp": index / self._rate, "interval": 1 / self._rate, "values": values}


class Ports:
    """The TCP port for one client at a time, the marker socket, and the loop that serves both."""

    def __init__(self, marker: Path, load: MarkedLoad | ScriptedLoad) -> None:
        self._load = load
        self._selector = selectors.DefaultSelector()
        self._marker = MarkerSocket(marker, self._selector)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self._received = b""
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(sys.stdin.fileno(), selectors.EVENT_READ)

    def serve(self, server: Server) -> None:
        """Work until standard input ends."""
        print(f"ready 127.0.0.1:{self._listener.getsockname()[1]}", flush=True)
        while True:
            for key, _ in self._selector.select():
                if key.fd == sys.stdin.fileno() and not os.read(key.fd, 64):
                    return
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._client:
                    self._receive(server)
            self.take_markers(server)

    def take_markers(self, server: Server) -> None:
        """Fetch and use what has come on the marker line."""
        self._marker.fetch()
        for edge in self._marker.take():
            if not isinstance(self._load, MarkedLoad):
                continue
            if edge is None:
                self._load.restart()
            else:
                self._load.mark(*edge)
                server.marked()

    def close(self) -> None:
        """Close everything."""
        self._hang_up()
        self._listener.close()
        self._marker.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        self._hang_up()
        self._client, self._received = client, b""
        self._selector.register(client, selectors.EVENT_READ)
        greeting: Data = {"otii_version": "3.5.5", "protocol_version": "0.1", "server": "otii-server"}
        self._send({"type": "information", "info": "connected", "data": greeting})

    def _receive(self, server: Server) -> None:
        if self._client is None:
            return
        try:
            data = self._client.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._received = (self._received + data).split(b"\r\n")
        for line in lines:
            answer = server.answer_to(line)
            if server.hangs_up:
                server.hangs_up = False
                self._hang_up()
                return
            self._send(answer)

    def _send(self, message: Data) -> None:
        if self._client is not None:
            with contextlib.suppress(ConnectionError):
                self._client.sendall(json.dumps(message).encode() + b"\r\n")

    def _hang_up(self) -> None:
        if self._client is not None:
            self._selector.unregister(self._client)
            self._client.close()
            self._client = None


class EmulatedOtii:
    """An emulated Otii server in a process of its own; use it as a context manager.

    Args:
        folder: where its socket and its log are made; must exist.
        clock_hz: rate of the cycle counter in the marker frames.
        load: of the board; a script is there whole with each recording and needs no marker.
        faults: what it does wrong.
    """

    def __init__(
        self, folder: Path, clock_hz: int, load: EnergyModel | ScriptedLoad, *, faults: Faults = Faults()
    ) -> None:
        self._folder = folder
        self._clock_hz = clock_hz
        self._load = load
        self._faults = faults
        self._process = MeterProcess("the emulated Otii server", "lab.emulators.otii", folder, "otii")
        self.host = ""
        self.tcp_port = 0

    @property
    def marker_path(self) -> Path:
        """UNIX socket that listens for the board's second UART."""
        return self._process.marker_path

    def __enter__(self) -> Self:
        if isinstance(self._load, ScriptedLoad):
            arguments = arguments_of_script(self._load, self._folder / "otii.npy")
        else:
            arguments = arguments_of_model(self._load, self._clock_hz)
        arguments += fault_arguments(self._faults)
        self.host, _, port = self._process.start(arguments).partition(":")
        self.tcp_port = int(port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()


def peer(config: MeterConfig, folder: Path, clock_hz: int, model: EnergyModel, stack: ExitStack) -> StartedMeter:
    """The emulated Otii server of a bench entry, started; see :func:`lab.emulators.meters.start_meter`."""
    # The process of the meter needs no models, which take a third of its start.
    from lab.meter_config import OtiiConfig

    if not isinstance(config, OtiiConfig):
        raise ConfigError(f"an Otii was asked to be a meter of kind {config.kind!r}")
    running = stack.enter_context(EmulatedOtii(folder, clock_hz, model))
    reached = config.model_copy(update={"host": running.host, "tcp_port": running.tcp_port})
    return StartedMeter(running.marker_path, f"{running.host}:{running.tcp_port}", reached)


def main() -> None:
    """Run the emulated server until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m lab.emulators.otii", description="An emulated Otii server")
    add_arguments(parser)
    add_fault_options(parser, Faults)
    options = parser.parse_args()
    load = load_of(options)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, terminate)
    ports = Ports(options.marker, load)
    faults = faults_of(options, Faults)
    server = Server(load, faults, newest=lambda: ports.take_markers(server))
    with contextlib.closing(ports):
        ports.serve(server)


if __name__ == "__main__":
    main()
