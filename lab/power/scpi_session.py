"""A SCPI instrument through PyVISA: commands, queries, lists of numbers, its error queue.

PyVISA is an extra and imported when an instrument is opened. With ``pyvisa-py`` it needs no vendor's VISA library;
resources such as ``TCPIP::192.168.1.7::5025::SOCKET``, ``TCPIP::…::INSTR``, ``USB0::…::INSTR`` and
``ASRL/dev/…::INSTR`` work.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError, ToolMissing

Float64Array = npt.NDArray[np.float64]

INSTALL = "pip install 'hil-lab[scpi]'"
OVERRANGE = 9.9e37
"""SCPI-1999 volume 1, 7.2.1.4: ±9.9E37 stands for an infinite value, which instruments send for overrange."""
_NOT_A_NUMBER = 9.91e37
_MOST_ERRORS = 32


class VisaResource(Protocol):
    """What is used of a ``pyvisa`` resource."""

    timeout: float
    read_termination: str | None
    write_termination: str | None

    def write(self, message: str) -> int: ...

    def read(self) -> str: ...

    def query_binary_values(self, message: str, datatype: str) -> Sequence[float]: ...

    def close(self) -> None: ...


class _Manager(Protocol):
    def open_resource(self, resource_name: str) -> VisaResource: ...

    def close(self) -> None: ...


class ScpiSession:
    """One connection to an instrument.

    Args:
        resource: VISA address.
        timeout_s: longest time for an answer, seconds.
    """

    def __init__(self, resource: str, timeout_s: float) -> None:
        self.resource = resource
        self._timeout_s = timeout_s
        self._manager: _Manager | None = None
        self._line: VisaResource | None = None
        self._failures: tuple[type[Exception], ...] = (OSError,)

    def open(self) -> None:
        """Connect.

        Raises:
            ToolMissing: PyVISA is not installed.
            MeterError: there is no such instrument, or it does not take the connection.
        """
        try:
            visa = import_module("pyvisa")
        except ImportError as error:
            raise ToolMissing(f"{self.resource} needs PyVISA, which is not installed", hint=INSTALL) from error
        # A vendor's VISA library, where there is one, knows GPIB and more; else the one written in Python.
        self._failures = (visa.errors.Error, OSError, ValueError)
        try:
            self._manager = cast("_Manager", self._resource_manager(visa))
            line = self._manager.open_resource(self.resource)
            line.timeout = self._timeout_s * 1000
            line.read_termination = line.write_termination = "\n"
        except Exception as error:
            # pyvisa-py raises plain Exception where a host is not found or refuses.
            self.close()
            raise MeterError(
                f"{self.resource}: cannot be opened: {error}",
                hint="check the VISA address, the cable, and that remote control is switched on at the instrument",
            ) from error
        self._line = line

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        line, self._line = self._line, None
        manager, self._manager = self._manager, None
        for one in (line, manager):
            if one is not None:
                # Of an instrument that was switched off there is nothing left to be closed.
                with contextlib.suppress(*self._failures):
                    one.close()

    def write(self, command: str) -> None:
        """Send a command.

        Raises:
            MeterError: not open, or the connection broke; names the command.
        """
        try:
            self._opened().write(command)
        except self._failures as error:
            raise self._failed(command, error) from error

    def ask(self, query: str) -> str:
        """The answer to a query, without white space around it.

        Raises:
            MeterError: not open, no answer in time, or the connection broke; names the query.
        """
        line = self._opened()
        try:
            line.write(query)
            return line.read().strip()
        except self._failures as error:
            raise self._failed(query, error) from error

    def ask_number(self, query: str) -> float:
        """The answer to a query that gives one number; overrange is ±inf.

        Raises:
            MeterError: as :meth:`ask`, or the answer is no number.
        """
        values = parse_values(answer := self.ask(query))
        if values.size != 1 or np.isnan(values[0]):
            raise MeterError(f"{self.resource}: {query!r} was answered with {answer[:60]!r}, not with one number")
        return float(values[0])

    def ask_values(self, query: str) -> Float64Array:
        """The answer to a query as numbers; see :func:`parse_values`."""
        return parse_values(self.ask(query))

    def ask_block(self, query: str) -> Float64Array:
        """The answer to a query, a block of little-endian 32-bit floats; overrange as :func:`parse_values` has it.

        Raises:
            MeterError: as :meth:`ask`, or the answer is no such block.
        """
        try:
            return _special(np.array(self._opened().query_binary_values(query, datatype="f"), np.float64))
        except self._failures as error:
            raise self._failed(query, error) from error

    def drain_errors(self) -> tuple[str, ...]:
        """Empty the instrument's error queue; the texts of it.

        Raises:
            MeterError: the instrument does not answer.
        """
        errors: list[str] = []
        for _ in range(_MOST_ERRORS):
            answer = self.ask("SYST:ERR?")
            code = answer.partition(",")[0].strip().lstrip("+")
            if code == "0":
                break
            errors.append(answer)
        return tuple(errors)

    def check(self, what: str) -> None:
        """Refuse to go on where the instrument has an error in its queue.

        Args:
            what: what it was told, for the message.

        Raises:
            MeterError: it has; names all of them.
        """
        errors = self.drain_errors()
        if errors:
            raise MeterError(
                f"{self.resource}: {what} was refused by the instrument: {'; '.join(errors)}",
                hint="is its model the one of the bench file, and can it do what is asked (channel, voltage, range)?",
            )

    @staticmethod
    def _resource_manager(visa: object) -> object:
        make = vars(visa)["ResourceManager"]
        try:
            return make()
        except (OSError, ValueError):
            return make("@py")

    def _opened(self) -> VisaResource:
        if self._line is None:
            raise MeterError(f"{self.resource}: not open", hint="call open(), or use the meter in a with statement")
        return self._line

    def _failed(self, command: str, error: Exception) -> MeterError:
        text = str(error)
        if "TMO" in text or "imeout" in text:
            return MeterError(
                f"{self.resource}: no answer to {command!r} within {self._timeout_s:g} s",
                hint="is the instrument busy, or is this command unknown to it? Look at its display",
                transient=True,
            )
        return MeterError(
            f"{self.resource}: the connection broke at {command!r}: {text}",
            hint="check the cable and the network, then open it again",
            transient=True,
        )


def parse_values(answer: str) -> Float64Array:
    """Numbers of an ASCII answer, shape (n,): damaged items and 9.91E37 are NaN, overrange is ±inf."""
    items = [item for item in answer.strip().split(",") if item.strip()]
    try:
        values = np.array(items, np.float64)
    except ValueError:
        values = np.array([_number(item) for item in items], np.float64)
    return _special(values)


def _special(values: Float64Array) -> Float64Array:
    size = np.abs(values)
    values[size >= (OVERRANGE + _NOT_A_NUMBER) / 2] = np.nan
    over = (size >= OVERRANGE * (1 - 1e-6)) & ~np.isnan(values)
    values[over] = np.copysign(np.inf, values[over])
    return values


def _number(item: str) -> float:
    try:
        return float(item)
    except ValueError:
        return float("nan")
