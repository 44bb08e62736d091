"""Qoitech Otii Arc and Ace through the TCP port of the Otii server (the Otii 3 application, or ``otii_server``).

Requests and answers are JSON objects, one a line (CR LF), told apart by ``trans_id``; the server greets a client with
an ``information``. What is recorded stays with the server: a recording is started, its channels are asked how much they
hold, and fetched by index. ``mc`` and ``mv`` are current and voltage of the main output with a time stamp per answer;
``i1`` and ``i2`` are the general-purpose inputs as a list of edges with times. (Protocol as ``otii-tcp-client``, the
maker's own client, speaks it; tests hold ours against it. Not run on an instrument.)
"""

from __future__ import annotations

import json
import math
import socket
import time
from collections import deque
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.config_fields import reveal
from lab.errors import ConfigError, MeterError
from lab.meter_config import MeterConfig, OtiiConfig
from lab.power.base import Float32Array, MeterInfo, RangeUncertainty, SampleBlock, UInt8Array

RANGES = (
    RangeUncertainty(20e-3, 0.01, 0.5e-6),
    RangeUncertainty(2.7, 0.01, 82e-6),
    RangeUncertainty(5.0, 0.01, 1.5e-3),
)
"""Otii Arc: 1 %, taken on the safe side, and as offset 0.5 µA or the resolution of the range. For an Ace the maker
gives 0.05 % + 25 nA at small currents."""
VOLTAGE_UNCERTAINTY = 0.01
"""Taken on the safe side."""

_ANSWER_S = 10.0
_LONGEST_CHUNK = 40_000
_DEVICE_TYPES = ("Arc", "Ace", "Simulator")
_EXPANSION_V = (1.2, 5.0)
# Edges of the inputs may reach the server a little after the samples they belong to.
_HELD_BACK_S = 0.5
_LONGEST_GAP_S = 60.0
_LARGEST = 1e12
_POLL_S = 0.02

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
Float64Array: TypeAlias = npt.NDArray[np.float64]


class OtiiConnection:
    """Requests to an Otii server.

    Args:
        host, port: where it listens.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = f"{host}:{port}"
        self._pending = b""
        self._lines: deque[bytes] = deque()
        self._count = 0
        try:
            self._socket = socket.create_connection((host, port), timeout=_ANSWER_S)
        except OSError as error:
            raise MeterError(
                f"{self._address}: no Otii server: {error}",
                hint="start the Otii application with its TCP server switched on, or otii_server",
            ) from error
        greeting = self._message("the greeting")
        if greeting.get("info") != "connected":
            self.close()
            raise MeterError(f"{self._address}: not an Otii server: it said {str(greeting)[:80]}")

    def ask(self, command: str, **data: Json) -> dict[str, Json]:
        """Send a request; the ``data`` of its answer.

        Raises:
            MeterError: the server refuses, is silent, or went away.
        """
        self._count += 1
        number = str(self._count)
        request: dict[str, Json] = {"type": "request", "cmd": command, "trans_id": number}
        if data:
            request["data"] = data
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\r\n")
        except OSError as error:
            raise self._gone(error) from error
        while True:
            answer = self._message(command)
            if answer.get("type") in ("information", "progress") or answer.get("trans_id") != number:
                continue
            found = answer.get("data")
            if answer.get("type") != "response":
                reason = found.get("message") if isinstance(found, dict) else None
                raise MeterError(
                    f"{self._address}: the Otii server refuses {command}: {answer.get('errorcode')}"
                    + (f": {reason}" if reason else ""),
                    hint="is the instrument attached, and is an automation licence reserved or free?",
                )
            return found if isinstance(found, dict) else {}

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self._socket.close()

    def _message(self, what: str) -> dict[str, Json]:
        while not self._lines:
            try:
                data = self._socket.recv(1 << 18)
            except TimeoutError as error:
                raise MeterError(
                    f"{self._address}: silent for {_ANSWER_S:g} s after {what}", transient=True
                ) from error
            except OSError as error:
                raise self._gone(error) from error
            if not data:
                raise self._gone(ConnectionError("it closed the connection"))
            *lines, self._pending = (self._pending + data).split(b"\r\n")
            self._lines.extend(line for line in lines if line)
        line = self._lines.popleft()
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise MeterError(f"{self._address}: not an Otii server: it sent {line[:60]!r}")
        return message

    def _gone(self, error: OSError) -> MeterError:
        return MeterError(
            f"{self._address}: the Otii server went away: {error}",
            hint="look at the Otii application, and at the network",
            transient=True,
        )


class Otii:
    """An Otii instrument as :class:`lab.power.base.Meter`.

    Args:
        config: its settings.
        voltage_v: voltage to supply, volt.
    """

    def __init__(self, config: OtiiConfig, voltage_v: float) -> None:
        self._config = config
        self._voltage_v = voltage_v
        self._where = f"{config.host}:{config.tcp_port}"
        self._connection: OtiiConnection | None = None
        self._device = ""
        self._identity = ""
        self._project = 0
        self._licence: int | None = None
        self._logged_in = False
        self._recording: _Recording | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def info(self) -> MeterInfo:
        """What the meter is.

        Raises:
            MeterError: not open.
        """
        self._opened()
        return MeterInfo(
            kind="otii",
            identity=self._identity,
            sample_rate_hz=float(self._config.sample_rate),
            voltage_v=self._voltage_v,
            measures_voltage=True,
            logic_inputs=2,
            relative_uncertainty=RANGES[0].relative,
            emulated=self._config.emulated,
            ranges=RANGES,
            voltage_uncertainty=VOLTAGE_UNCERTAINTY,
            held_back_s=_HELD_BACK_S,
        )

    def open(self) -> MeterInfo:
        """Connect, log in where needed, take the instrument, set it and switch its output on.

        Raises:
            MeterError: no server, no such instrument, no licence, or a setting is refused.
        """
        self._connection = OtiiConnection(self._config.host, self._config.tcp_port)
        try:
            self._take_licence()
            self._device, self._identity = self._find()
            self._set_up()
            self.set_output(True)
        except MeterError:
            self.close()
            raise
        return self.info

    def set_output(self, on: bool) -> None:
        """Switch the main output; it stays as it is when the connection is closed.

        Raises:
            MeterError: not open, or refused.
        """
        self._opened().ask("arc_set_main", device_id=self._device, enable=on)

    def start(self) -> None:
        """Start a recording; sample 0 is its first one.

        Raises:
            MeterError: not open, or refused.
        """
        connection = self._opened()
        connection.ask("project_start_recording", project_id=self._project)
        number = connection.ask("project_get_last_recording", project_id=self._project).get("recording_id")
        if not isinstance(number, int) or number < 0:
            raise MeterError(f"{self._where}: the recording that was started is not there")
        limit_a = self._config.limit_a
        self._recording = _Recording(connection, self._device, number, self._config.sample_rate, limit_a)

    def read(self, timeout_s: float) -> SampleBlock:
        """Return what has been recorded but for the last half second, whose edges may still be on their way.

        Raises:
            MeterError: not started, or the server went away.
        """
        recording = self._started()
        deadline = time.monotonic() + timeout_s
        while not (block := recording.take(_HELD_BACK_S)).current_a.size and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return block

    def stop(self) -> SampleBlock:
        """Stop the recording, return the rest of it and delete it on the server.

        Raises:
            MeterError: not started, or the server went away.
        """
        recording, self._recording = self._started(), None
        connection = self._opened()
        connection.ask("project_stop_recording", project_id=self._project)
        on = connection.ask("arc_get_main", device_id=self._device).get("value") is True
        block = recording.take(0.0, tripped=not on)
        connection.ask("recording_delete", recording_id=recording.number)
        return block

    def close(self) -> None:
        """Give the licence back and close the connection; safe to call twice."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            if self._recording is not None:
                connection.ask("project_stop_recording", project_id=self._project)
            if self._licence is not None:
                connection.ask("otii_return_license", license_id=self._licence)
            if self._logged_in:
                connection.ask("otii_logout")
        except MeterError:
            # The server went away: nothing is left to be given back.
            pass
        finally:
            self._recording, self._licence, self._logged_in = None, None, False
            connection.close()

    def _take_licence(self) -> None:
        connection, config = self._opened(), self._config
        if config.username is not None and connection.ask("otii_is_logged_in").get("logged_in") is not True:
            password = "" if config.password is None else config.password.get_secret_value()
            connection.ask("otii_login", username=reveal(config.username), password=password)
            self._logged_in = True
        if connection.ask("otii_has_license", license_type="Automation").get("has_license") is True:
            return
        listed = connection.ask("otii_get_licenses").get("licenses")
        for one in listed if isinstance(listed, list) else []:
            number = one.get("id") if isinstance(one, dict) else None
            if isinstance(one, dict) and isinstance(number, int) and _is_free(one):
                connection.ask("otii_reserve_license", license_id=number)
                self._licence = number
                return
        raise MeterError(
            f"{self._where}: no automation licence is free",
            hint="free one in the Otii application, or give username: and password: of an account that has one",
        )

    def _find(self) -> tuple[str, str]:
        """Identifier and title of the instrument."""
        listed = self._opened().ask("otii_get_devices", timeout=_ANSWER_S / 2).get("devices")
        devices = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        meters = [one for one in devices if one.get("type") in _DEVICE_TYPES]
        wanted = self._config.device
        own = [one for one in meters if wanted is None or wanted in (one.get("name"), one.get("device_id"))]
        if len(own) != 1:
            there = ", ".join(str(one.get("name")) for one in meters) or "none"
            raise MeterError(
                f"{self._where}: {wanted or 'one Otii instrument'} was wanted; attached: {there}",
                hint="name one of them with device:",
            )
        return str(own[0].get("device_id")), f"Otii {own[0].get('type')} {own[0].get('name')}"

    def _set_up(self) -> None:
        connection, config, device = self._opened(), self._config, self._device
        project = connection.ask("otii_get_active_project").get("project_id")
        if not isinstance(project, int) or project < 0:
            project = connection.ask("otii_create_project").get("project_id")
        self._project = project if isinstance(project, int) else 0
        connection.ask("arc_add_to_project", device_id=device)
        connection.ask("arc_set_max_current", device_id=device, value=config.limit_a)
        connection.ask("arc_set_main_voltage", device_id=device, value=self._voltage_v)
        lowest, highest = _EXPANSION_V
        connection.ask("arc_set_exp_voltage", device_id=device, value=min(max(self._voltage_v, lowest), highest))
        connection.ask("arc_enable_exp_port", device_id=device, enable=True)
        for channel in ("mc", "mv", "i1", "i2"):
            connection.ask("arc_enable_channel", device_id=device, channel=channel, enable=True)
        connection.ask("arc_set_channel_samplerate", device_id=device, channel="mc", value=config.sample_rate)
        got = connection.ask("arc_get_channel_samplerate", device_id=device, channel="mc").get("value")
        if got != config.sample_rate:
            raise MeterError(
                f"{self._where}: {self._identity} samples at {got} Hz, not at {config.sample_rate} Hz",
                hint="set sample_rate: to a rate it has: 1000 or 4000 on an Arc, up to 50000 on an Ace",
            )

    def _opened(self) -> OtiiConnection:
        if self._connection is None:
            raise MeterError(f"{self._where}: the meter is not open", hint="call open(), or use it in a with statement")
        return self._connection

    def _started(self) -> _Recording:
        if self._recording is None:
            raise MeterError(f"{self._where}: the stream was not started", hint="call start() first")
        return self._recording


def _is_free(licence: dict[str, Json]) -> bool:
    kinds = ("Automation", "Enterprise", "Admin", "All")
    return licence.get("available") is True and not licence.get("reserved_to") and licence.get("type") in kinds


class _Recording:
    """Fetches a recording as it grows, and puts its channels on one time axis: that of the current."""

    def __init__(self, connection: OtiiConnection, device: str, number: int, rate: int, limit_a: float) -> None:
        self._connection = connection
        self._device = device
        self.number = number
        self._rate = rate
        self._limit_a = limit_a
        # Times come as decimals.
        self._rounding_s = 0.01 / rate
        self._next = {"mc": 0, "mv": 0, "i1": 0, "i2": 0}
        self._begin_s = math.nan
        self._current: Float64Array = np.empty(0)
        self._passed_on = 0
        self._voltage_s: list[float] = []
        self._voltage_v: list[float] = []
        self._edges: dict[str, list[tuple[float, bool]]] = {"i1": [], "i2": []}

    def take(self, held_back_s: float, *, tripped: bool = False) -> SampleBlock:
        """What has come and is older than ``held_back_s`` of what came last."""
        self._fetch_current()
        # After the current, so that what belongs to it is there.
        self._fetch_voltage()
        for channel in self._edges:
            self._fetch_edges(channel)
        count = max(self._current.size - round(held_back_s * self._rate), 0)
        first, self._passed_on = self._passed_on, self._passed_on + count
        current, self._current = self._current[:count].astype(np.float32), self._current[count:]
        time_s = self._begin_s + (first + np.arange(count)) / self._rate
        lost = np.isnan(current)
        with np.errstate(invalid="ignore"):
            saturated = int(np.count_nonzero(current >= np.float32(self._limit_a)))
        # A main output that is off at the end has tripped, though no sample may show it.
        saturated = max(saturated, int(tripped and count > 0))
        logic = self._logic(time_s)
        logic[lost] = 0
        voltage = self._voltage(time_s)
        voltage[lost] = np.nan
        return SampleBlock(first, current, logic, int(np.count_nonzero(lost)), saturated, voltage)

    def _logic(self, time_s: Float64Array) -> UInt8Array:
        logic = np.zeros(time_s.size, np.uint8)
        for bit, edges in enumerate(self._edges.values()):
            at = np.searchsorted([edge_s - self._rounding_s for edge_s, _ in edges], time_s, side="right")
            levels = np.array([False, *(level for _, level in edges)])
            logic |= levels[at].astype(np.uint8) << np.uint8(bit)
        return logic

    def _voltage(self, time_s: Float64Array) -> Float32Array:
        """The voltage sampled last at each time; it may be sampled more slowly than the current."""
        if not self._voltage_s:
            return np.full(time_s.size, np.nan, np.float32)
        shifted = np.array(self._voltage_s) - self._rounding_s
        at = np.maximum(np.searchsorted(shifted, time_s, side="right") - 1, 0)
        voltage = np.array(self._voltage_v, np.float32)[at]
        done = int(at[-1]) if at.size else 0
        del self._voltage_s[:done], self._voltage_v[:done]
        return voltage

    def _fetch_current(self) -> None:
        for begin_s, _, values in self._analog("mc"):
            if math.isnan(self._begin_s):
                self._begin_s = begin_s
            have = self._passed_on + self._current.size
            missing = round((begin_s - self._begin_s) * self._rate) - have
            if not 0 <= missing <= _LONGEST_GAP_S * self._rate:
                raise MeterError(f"recording {self.number}: a sample of {begin_s:g} s came after sample {have}")
            self._current = np.concatenate([self._current, np.full(missing, np.nan), values])

    def _fetch_voltage(self) -> None:
        for begin_s, interval_s, values in self._analog("mv"):
            self._voltage_s += (begin_s + interval_s * np.arange(values.size)).tolist()
            self._voltage_v += values.tolist()

    def _fetch_edges(self, channel: str) -> None:
        count = self._count(channel) - self._next[channel]
        if count <= 0:
            return
        values = self._data(channel, count).get("values")
        edges = self._edges[channel]
        for one in values if isinstance(values, list) else []:
            time_s = _number(one.get("timestamp")) if isinstance(one, dict) else math.nan
            if not isinstance(one, dict) or not time_s >= (edges[-1][0] if edges else -math.inf):
                raise MeterError(f"recording {self.number}: channel {channel} gives no edge in order but {one}")
            edges.append((time_s, one.get("value") is True))
            self._next[channel] += 1

    def _analog(self, channel: str) -> list[tuple[float, float, Float64Array]]:
        """New runs of samples: time of the first, seconds between them, values; NaN for what is no number."""
        runs = []
        end = self._count(channel)
        while self._next[channel] < end:
            data = self._data(channel, min(end - self._next[channel], _LONGEST_CHUNK))
            values = data.get("values")
            if not isinstance(values, list) or not values:
                raise MeterError(f"recording {self.number}: channel {channel} gives no samples where it has {end}")
            self._next[channel] += len(values)
            numbers = np.array([_number(value) for value in values])
            begin_s, interval_s = _number(data.get("timestamp")), _number(data.get("interval"))
            if not (math.isfinite(begin_s) and interval_s > 0):
                raise MeterError(f"recording {self.number}: channel {channel} gives no times")
            runs.append((begin_s, interval_s, numbers))
        return runs

    def _count(self, channel: str) -> int:
        answer = self._connection.ask(
            "recording_get_channel_data_count", recording_id=self.number, device_id=self._device, channel=channel
        )
        count = answer.get("count")
        return count if isinstance(count, int) else 0

    def _data(self, channel: str, count: int) -> dict[str, Json]:
        return self._connection.ask(
            "recording_get_channel_data",
            recording_id=self.number,
            device_id=self._device,
            channel=channel,
            index=self._next[channel],
            count=count,
        )


def _number(value: Json) -> float:
    """A number of the size that measured ones have; not a number for anything else."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST
    return float(value) if known and isinstance(value, int | float) else math.nan


def make(config: MeterConfig, voltage_v: float) -> Otii:
    """The Otii instrument of a bench entry; see :func:`lab.power.registry.make_meter`."""
    if not isinstance(config, OtiiConfig):
        raise ConfigError(f"an Otii was asked to be a meter of kind {config.kind!r}")
    return Otii(config, voltage_v)
