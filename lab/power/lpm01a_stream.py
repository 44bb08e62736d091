"""The sample stream of an ST X-NUCLEO-LPM01A, in both formats. Pure functions of bytes.

Neither format numbers its samples. What there is to find losses by is the board's time stamp each second: between two
of them there must be as many samples as the rate says. So samples are kept until the time stamp after them has come,
and an interval whose count is wrong is not passed on as if nothing had happened:

- fewer samples than there should be: as many NaN are put at its end;
- more: those beyond the count are left out and as many at its end become NaN;
- binary, and an odd number of bytes: where the words begin is not known, all of the interval is NaN.

Within such an interval samples may lie off their time by the samples that were lost or repeated. What follows the last
time stamp is passed on without this check when the stream ends.

ASCII: ``6409-07`` is 6409·10⁻⁷, one value a line. Binary: two bytes, big-endian, exponent in the highest 4 bits:
``52A0`` is 0x2A0·16⁻⁵; an exponent of 15 is none, ``F0 F1`` to ``F0 F9`` begin records that end with ``FF FF``. (ST's
help text, as the command ``help`` prints it.)
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lab.power.base import Float32Array, SampleBlock

HIGHEST_CURRENT_A = 50e-3
"""End of the dynamic range; above it the board reports overcurrent."""
STAMP_PERIOD_S = 1.0
"""A time stamp comes so often, and the samples before it wait for it."""

# A little above full scale, so that a meter at its end is seen as saturated and not as damaged.
_PLAUSIBLE = 1.1
_LONGEST_GAP_S = 10.0
_STAMP_MS = round(1000 * STAMP_PERIOD_S)
_LONGEST_TEXT = 256

_VALUE = re.compile(rb"(\d{4})([+-]\d{2})")
_TIME_STAMP = re.compile(rb"TimeStamp: *(\d+)s +(\d+)ms, *buff +(\d+)%")
_EVENT = re.compile(rb"event (\d+) (ris|fal)")
# Records of the binary format; a text may not hold the end mark. Overcurrent and power-down are believed without one.
_RECORD = re.compile(
    rb"\xf0(?:(\xf3.{5}\xff\xff)|(\xf4\xff\xff)|(\xf7.{2}\xff\xff)|([\xf5\xf6](?:\xff\xff)?)"
    rb"|([\xf1\xf2\xf8\xf9].{0,%d}?\xff\xff))" % _LONGEST_TEXT,
    re.DOTALL,
)


@dataclass(frozen=True)
class Lpm01aReport:
    """What happened to the stream since it started.

    Attributes:
        samples: samples up to now, lost ones counted.
        lost: samples that are NaN.
        corrupted: values that cannot be, or lines that are none, among them.
        surplus: samples beyond the count of their interval, which were left out.
        misaligned: intervals with an odd number of bytes (binary).
        saturated: samples at or above 50 mA less 0.1 %.
        overcurrent: times the board reported overcurrent.
        edges: events on D7.
        missing_edges: events that their numbers, or two equal ones in a row, show to be missing.
        buffer_percent: highest filling of the board's buffer it told.
        bad_time_stamps: time stamps that could not be right.
        errors: error texts of the board.
        ended: whether the board said that the acquisition is over.
    """

    samples: int = 0
    lost: int = 0
    corrupted: int = 0
    surplus: int = 0
    misaligned: int = 0
    saturated: int = 0
    overcurrent: int = 0
    edges: int = 0
    missing_edges: int = 0
    buffer_percent: int = 0
    bad_time_stamps: int = 0
    errors: tuple[str, ...] = ()
    ended: bool = False

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, in words; nothing of a stream that came whole."""
        said = (
            (self.corrupted, f"{self.corrupted} values or lines came damaged and count as lost samples"),
            (self.surplus, f"{self.surplus} samples beyond the count of their second were left out"),
            (self.misaligned, f"{self.misaligned} seconds with an odd number of bytes were given up"),
            (self.overcurrent, f"the board reported overcurrent {self.overcurrent} times"),
            (self.missing_edges, f"{self.missing_edges} events on D7 are missing by their numbers"),
            (self.bad_time_stamps, f"{self.bad_time_stamps} time stamps could not be right"),
        )
        return (*(text for count, text in said if count), *(f"the board said: {error}" for error in self.errors))


@dataclass
class _Interval:
    """What came since the last time stamp."""

    values: list[npt.NDArray[np.float64]] = field(default_factory=list)
    size: int = 0
    levels: list[tuple[int, int]] = field(default_factory=list)
    misaligned: bool = False
    overcurrent: int = 0


class Timeline:
    """Joins values, events and time stamps into blocks.

    Args:
        sample_rate_hz: as the board was told.
        ampere_per_unit: 1 where the values are currents; rate / voltage where they are energies.
        pulses: each event, whatever its edge, is a pulse of a board that marks begin and end alike (MLPerf Tiny's
            time stamp pin) and turns the marker over; else a rising edge sets it and a falling one clears it.
    """

    def __init__(self, sample_rate_hz: int, ampere_per_unit: float = 1.0, pulses: bool = False) -> None:
        self._rate = sample_rate_hz
        self._ampere = ampere_per_unit
        self._pulses = pulses
        self._now = _Interval()
        self._last_ms: int | None = None
        self._level = 0
        self._level_at_begin = 0
        self._last_event = -1
        self._ready: list[SampleBlock] = []
        self.report = Lpm01aReport()

    def values(self, values: npt.NDArray[np.float64]) -> None:
        """Consecutive values in the board's unit; NaN for damaged ones, and for those that cannot be."""
        current = values * self._ampere
        with np.errstate(invalid="ignore"):
            current[(current > HIGHEST_CURRENT_A * _PLAUSIBLE) | (current < 0)] = np.nan
        self._now.values.append(current)
        self._now.size += current.size

    def event(self, number: int, rising: bool) -> None:
        """An edge on D7 before the next value."""
        missing = number - self._last_event - 1 if self._last_event >= 0 else 0
        level = self._level ^ 1 if self._pulses else int(rising)
        if not self._pulses and missing == 0 and level == self._level:
            missing = 1
        self._last_event = number
        self._level = level
        self._now.levels.append((self._now.size, level))
        self.report = replace(
            self.report, edges=self.report.edges + 1, missing_edges=self.report.missing_edges + max(missing, 0)
        )

    def time_stamp(self, milliseconds: int, buffer_percent: int) -> None:
        """The board's time; all that came before lies before it."""
        if self._last_ms is None:
            # A board may begin to count a little before it sends; a first time stamp of a second or more means that
            # earlier ones did not arrive.
            self._last_ms = 0 if self._now.size or milliseconds >= _STAMP_MS else milliseconds
        expected = round((milliseconds - self._last_ms) * self._rate / 1000)
        if not 0 <= expected <= self._now.size + _LONGEST_GAP_S * self._rate or buffer_percent > 100:
            self.report = replace(self.report, bad_time_stamps=self.report.bad_time_stamps + 1)
            return
        self._last_ms = milliseconds
        self.report = replace(self.report, buffer_percent=max(self.report.buffer_percent, buffer_percent))
        self._close(expected)

    def misaligned(self) -> None:
        """Where values begin is not known since some place in this interval."""
        self._now.misaligned = True

    def overcurrent(self) -> None:
        """The board said so."""
        self._now.overcurrent += 1
        self.report = replace(self.report, overcurrent=self.report.overcurrent + 1)

    def text(self, text: str) -> None:
        """An error text of the board."""
        self.report = replace(self.report, errors=(*self.report.errors, text))

    def end(self) -> None:
        """The board said that the acquisition is over."""
        self.report = replace(self.report, ended=True)

    def finish(self) -> None:
        """The stream is over: what waits for a time stamp is passed on."""
        self._close(None)

    def take(self) -> list[SampleBlock]:
        """Blocks that are complete."""
        ready, self._ready = self._ready, []
        return ready

    def _close(self, expected: int | None) -> None:
        interval, self._now = self._now, _Interval()
        current = np.concatenate([np.empty(0), *interval.values])
        corrupted = int(np.count_nonzero(np.isnan(current)))
        surplus = 0
        if interval.misaligned:
            current = np.full(current.size if expected is None else expected, np.nan)
        elif expected is not None:
            surplus = max(current.size - expected, 0)
            current = np.concatenate([current[:expected], np.full(max(expected - current.size, 0), np.nan)])
            if surplus:
                current[max(expected - surplus, 0) :] = np.nan
        self._block(current.astype(np.float32), interval, corrupted, surplus)

    def _block(self, current: Float32Array, interval: _Interval, corrupted: int, surplus: int) -> None:
        logic = np.full(current.size, self._level_at_begin, np.uint8)
        for at, level in interval.levels:
            logic[at:] = level
        self._level_at_begin = self._level
        gone = np.isnan(current)
        logic[gone] = 0
        lost = int(np.count_nonzero(gone))
        with np.errstate(invalid="ignore"):
            # The formats step by up to 0.03 % there.
            saturated = int(np.count_nonzero(current >= np.float32(0.999 * HIGHEST_CURRENT_A)))
        # Overcurrent that no sample shows, since the supply was cut, must not go unseen.
        saturated = max(saturated, min(interval.overcurrent, current.size))
        before = self.report
        if current.size:
            self._ready.append(SampleBlock(before.samples, current, logic, lost, saturated))
        self.report = replace(
            before,
            samples=before.samples + current.size,
            lost=before.lost + lost,
            corrupted=before.corrupted + corrupted,
            surplus=before.surplus + surplus,
            misaligned=before.misaligned + interval.misaligned,
            saturated=before.saturated + saturated,
        )


class Decoder(Protocol):
    """Bytes in, cut anywhere; the timeline gets what they mean."""

    def feed(self, data: bytes) -> None:
        """Take bytes."""

    def finish(self) -> None:
        """No more bytes come."""


class AsciiDecoder:
    """Lines of the format ``ascii_dec``, from the answer to ``start`` on.

    A line that is no value, time stamp, event or message counts as a damaged value.
    """

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._pending = b""
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        *lines, self._pending = (self._pending + data).split(b"\n")
        values: list[float] = []
        for line in lines:
            # The board puts a zero byte before the value that follows a time stamp.
            text = b"" if self._over else line.strip(b"\x00\r ")
            value = _VALUE.fullmatch(text)
            if value is not None:
                values.append(int(value[1]) * 10.0 ** int(value[2]))
            elif text and not self._other(text, values):
                values.append(math.nan)
        self._pass_on(values)

    def finish(self) -> None:
        """A line that was cut off is left out."""
        self._pending = b""
        self._timeline.finish()

    def _pass_on(self, values: list[float]) -> None:
        if values:
            self._timeline.values(np.array(values))
            values.clear()

    def _other(self, text: bytes, values: list[float]) -> bool:
        """Work on a line that is no value; whether it is anything."""
        stamp, event = _TIME_STAMP.fullmatch(text), _EVENT.fullmatch(text)
        said = text.decode("ascii", "replace")
        low = said.lower()
        self._pass_on(values)
        if stamp is not None:
            self._timeline.time_stamp(int(stamp[1]) * 1000 + int(stamp[2]), int(stamp[3]))
        elif event is not None:
            self._timeline.event(int(event[1]), event[2] == b"ris")
        elif "overcurrent" in low:
            self._timeline.overcurrent()
        elif low.startswith("error"):
            self._timeline.text(said)
        elif low == "end":
            # A summary follows.
            self._over = True
            self._timeline.end()
        else:
            return low.startswith("powershield")
        return True


class BinaryDecoder:
    """Words and records of the format ``bin_hexa``. What comes before the first time stamp is none of it."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._pending = b""
        self._begun = False
        self._over = False

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._pending += data
        done = 0
        for record in _RECORD.finditer(self._pending):
            if self._incomplete(record):
                break
            self._words(self._pending[done : record.start()])
            done = record.end()
            self._record(record[0][1], record[0][2:].removesuffix(b"\xff\xff"))
        # A record may begin in what is left, so no word of it is taken before the next record is there.
        self._pending = self._pending[done:]

    def finish(self) -> None:
        """What is left are words."""
        self._words(self._pending)
        self._pending = b""
        self._timeline.finish()

    def _incomplete(self, record: re.Match[bytes]) -> bool:
        """Whether the end mark of an overcurrent or power-down may still be on its way."""
        return record[4] is not None and len(record[4]) == 1 and len(self._pending) < record.end() + 2

    def _record(self, kind: int, body: bytes) -> None:
        self._begun = self._begun or kind == 0xF3
        if not self._begun or self._over:
            return
        event = _EVENT.fullmatch(body.strip(b"\x00\r\n ")) if kind == 0xF2 else None
        if kind == 0xF1:
            self._timeline.text(body.decode("ascii", "replace"))
        elif event is not None:
            self._timeline.event(int(event[1]), event[2] == b"ris")
        elif kind == 0xF3:
            self._timeline.time_stamp(int.from_bytes(body[:4], "big"), body[4])
        elif kind == 0xF4:
            self._over = True
            self._timeline.end()
        elif kind == 0xF5:
            self._timeline.overcurrent()

    def _words(self, data: bytes) -> None:
        if not self._begun or self._over or not data:
            return
        if len(data) % 2:
            self._timeline.misaligned()
            data = data[:-1]
        words = np.frombuffer(data, ">u2")
        exponent = (words >> 12).astype(np.float64)
        values = (words & 0xFFF) * 16.0**-exponent
        values[exponent == 15] = np.nan
        self._timeline.values(values)
