"""The sample stream of a Nordic Power Profiler Kit II: words, counter, calibration. Pure functions of bytes.

A sample is a 32-bit little-endian word: bits 13:0 ADC, 16:14 range (0 to 4), 17 unused, 23:18 a counter modulo 64,
31:24 logic inputs D7..D0 (bit 24 is D0), 100 000 of them a second. There is no framing, no check sum and no
acknowledge; the counter is all there is to find lost samples and lost alignment, so it is checked on every word.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lab.errors import MeterError
from lab.power.base import Float32Array, SampleBlock

SAMPLE_RATE_HZ = 100_000
RANGES = 5
WORD_BYTES = 4
COUNTER_PERIOD = 64
FULL_SCALE = 0x3FFF
HIGHEST_CURRENT_A = 1.0
"""Upper end of the highest range (data sheet); above it the meter's figures mean nothing."""

# Words that must count up in a row before an alignment is believed. Bytes that are not the counter do not count up, so
# 8 in a row by chance happen once in 64**7.
_CONFIRM = 8
_COUNTER_BYTE = 2
_AMPERE_PER_STEP_OHM = 1.8 / 163840

_VALUE_MASK = np.uint32(0x1FFFF)
# A lost sample on its way through the decoder: range 7 does not exist, so its current is NaN.
_GAP = np.uint32(0xFFFFFFFF)

UInt32Array: TypeAlias = npt.NDArray[np.uint32]
Piece: TypeAlias = UInt32Array | int
Row: TypeAlias = tuple[float, float, float, float, float]

_DEFAULTS: Mapping[str, Row] = {
    "R": (1031.64, 101.65, 10.15, 0.94, 0.043),
    "GS": (1.0,) * 5,
    "GI": (1.0,) * 5,
    "O": (0.0,) * 5,
    "S": (0.0,) * 5,
    "I": (0.0,) * 5,
    "UG": (1.0,) * 5,
}


@dataclass(frozen=True)
class Calibration:
    """Constants of one meter, one value per range.

    Attributes:
        calibrated: what the meter says of itself.
        hardware: hardware version text.
        constants: ``R`` (ohm), ``GS``, ``GI``, ``O``, ``S``, ``I``, ``UG``: five values each.
        replaced: names of values the meter did not give, for which the nominal ones stand.
    """

    calibrated: bool
    hardware: str
    constants: Mapping[str, Row]
    replaced: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, port: str) -> Calibration:
        """Read the metadata text: ``KEY: value`` lines from ``Calibrated`` to ``END``.

        A value of ``nan`` (or a resistance of 0), which some meters give, is replaced by the nominal one and named in
        ``replaced``; so is a missing value of a meter that calls itself uncalibrated.

        Raises:
            MeterError: the text is cut off, or a calibrated meter leaves a value out.
        """
        lines = text.replace("\r", "").split("\n")
        pairs = dict(line.split(": ", 1) for line in lines if ": " in line)
        if "END" not in lines or "Calibrated" not in pairs:
            raise MeterError(f"{port}: the meter's calibration is cut off after {text[-40:]!r}", hint=_REPLUG)
        calibrated = pairs["Calibrated"].strip() == "1"
        replaced: list[str] = []
        constants: dict[str, Row] = {}
        for name, nominal in _DEFAULTS.items():
            values = []
            for index in range(RANGES):
                key = f"{name}{index}"
                value = _number(pairs.get(key), key, port, required=calibrated)
                if math.isnan(value) or (name == "R" and value == 0):
                    replaced.append(key)
                    value = nominal[index]
                values.append(value)
            constants[name] = (values[0], values[1], values[2], values[3], values[4])
        return cls(calibrated, pairs.get("HW", "unknown").strip(), constants, tuple(replaced))

    def currents(self, voltage_v: float) -> Float32Array:
        """Current, ampere, of every value of bits 16:0 of a word: float32, shape (131072,), NaN for ranges 5 to 7.

        With ``adc`` four times the ADC field: r = (adc - O)·(1.8/163840)/R and
        I = UG·(r·(GS·r + GI) + S·V + I) of the word's range (Nordic's formula).
        """
        table = np.full(8 * (FULL_SCALE + 1), np.nan, np.float32)
        adc = np.arange(FULL_SCALE + 1, dtype=np.float64) * 4
        for index in range(RANGES):
            r, gs, gi, o, s, i, ug = (self.constants[name][index] for name in ("R", "GS", "GI", "O", "S", "I", "UG"))
            raw = (adc - o) * (_AMPERE_PER_STEP_OHM / r)
            current = ug * (raw * (gs * raw + gi) + (s * voltage_v + i))
            table[index * (FULL_SCALE + 1) : (index + 1) * (FULL_SCALE + 1)] = current
        return table


_REPLUG = "unplug the meter, plug it in again, and make sure that no other program has it open"


def _number(text: str | None, key: str, port: str, *, required: bool) -> float:
    if text is None:
        if required:
            raise MeterError(f"{port}: the meter calls itself calibrated but gives no {key}", hint=_REPLUG)
        return math.nan
    try:
        return float(text)
    except ValueError:
        raise MeterError(f"{port}: calibration value {key} is {text!r}, not a number", hint=_REPLUG) from None


@dataclass(frozen=True)
class StreamReport:
    """What happened to the stream since it started.

    Attributes:
        samples: samples up to now, lost ones counted.
        lost: samples that are NaN: dropped before they reached us, or damaged. A loss of a multiple of 64 in one
            place leaves no trace in the counter and cannot be seen.
        corrupted: damaged words among them.
        misaligned: times the word boundary was lost and found again.
        duplicated: words that came twice and were dropped.
        saturated: samples at full scale of their range or above 1 A.
        in_range: valid samples in each range.
    """

    samples: int = 0
    lost: int = 0
    corrupted: int = 0
    misaligned: int = 0
    duplicated: int = 0
    saturated: int = 0
    in_range: tuple[int, int, int, int, int] = (0, 0, 0, 0, 0)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know, in words; nothing of a stream that came whole."""
        said = (
            (self.corrupted, f"{self.corrupted} words came damaged and count as lost samples"),
            (self.misaligned, f"the word boundary was lost and found again {self.misaligned} times"),
            (self.duplicated, f"{self.duplicated} words came twice and were left out"),
        )
        return tuple(text for count, text in said if count)


@dataclass
class _Tally:
    samples: int = 0
    lost: int = 0
    corrupted: int = 0
    misaligned: int = 0
    duplicated: int = 0
    saturated: int = 0
    in_range: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(RANGES, np.int64))


class StreamDecoder:
    """Turns bytes, cut anywhere, into samples. The result does not depend on where they are cut.

    A word whose counter follows its predecessor's is taken at once. Anything else starts a search for the next place,
    at any byte, where 8 words count up in a row; the counter there tells how many samples were lost on the way. The
    last word is held back until its successor confirms that its bytes belong together.

    Args:
        currents: table of :meth:`Calibration.currents`.
    """

    def __init__(self, currents: Float32Array) -> None:
        self._currents = currents
        self._pending = b""
        self._searching = True
        self._skipped = 0
        self._next: int | None = None
        self._held: UInt32Array = np.empty(0, np.uint32)
        self._tally = _Tally()

    @property
    def report(self) -> StreamReport:
        """What happened so far."""
        t = self._tally
        a, b, c, d, e = (int(n) for n in t.in_range)
        return StreamReport(t.samples, t.lost, t.corrupted, t.misaligned, t.duplicated, t.saturated, (a, b, c, d, e))

    def feed(self, data: bytes) -> SampleBlock:
        """Take bytes; return the samples they complete."""
        self._pending += data
        pieces: list[Piece] = []
        while self._step(_CONFIRM, pieces):
            pass
        return self._block(pieces)

    def finish(self) -> SampleBlock:
        """The stream has ended: return what was held back. Words at the end that nothing confirms count as lost."""
        pieces: list[Piece] = []
        for confirm in (_CONFIRM, 4, 2):
            while self._step(confirm, pieces):
                pass
        pieces.append(self._held)
        if self._searching:
            words = (self._skipped + len(self._pending)) // WORD_BYTES
            self._tally.corrupted += words
            pieces.append(words if self._next is not None else 0)
        self._pending = b""
        self._skipped = 0
        self._held = self._held[:0]
        return self._block(pieces)

    def _step(self, confirm: int, pieces: list[Piece]) -> bool:
        """One stretch of the stream; whether there may be more to do with the bytes at hand."""
        return self._search(confirm, pieces) if self._searching else self._take(pieces)

    def _take(self, pieces: list[Piece]) -> bool:
        """Take the words that follow their predecessor."""
        whole = len(self._pending) // WORD_BYTES
        words = np.frombuffer(self._pending, "<u4", whole)
        expected = (np.arange(whole, dtype=np.uint32) + np.uint32(self._next or 0)) & (COUNTER_PERIOD - 1)
        wrong = np.flatnonzero(_counters(words) != expected)
        good = int(wrong[0]) if wrong.size else whole
        if good:
            pieces += (self._held, words[: good - 1])
            self._held = words[good - 1 : good]
            self._next = (int(expected[good - 1]) + 1) % COUNTER_PERIOD
        repeated = good < whole and self._held.size == 1 and words[good] == self._held[0]
        self._tally.duplicated += int(repeated)
        self._searching = good < whole and not repeated
        self._pending = self._pending[(good + int(repeated)) * WORD_BYTES :]
        return good < whole

    def _search(self, confirm: int, pieces: list[Piece]) -> bool:
        """Find the next byte at which ``confirm`` words count up in a row."""
        starts = len(self._pending) - confirm * WORD_BYTES + 1
        if starts <= 0:
            return False
        counters = np.frombuffer(self._pending, np.uint8)[_COUNTER_BYTE:] >> 2
        follows = ((counters[WORD_BYTES:] - counters[:-WORD_BYTES]) & (COUNTER_PERIOD - 1)) == 1
        fits = np.ones(starts, np.bool_)
        for word in range(confirm - 1):
            fits &= follows[word * WORD_BYTES :][:starts]
        found = bool(fits.any())
        at = int(fits.argmax()) if found else starts
        self._skipped += at
        self._pending = self._pending[at:]
        if found:
            self._resume(int(counters[at]), pieces)
        return found

    def _resume(self, counter: int, pieces: list[Piece]) -> None:
        """Alignment is known again: account for what lies between the last good word and here."""
        words, odd_bytes = divmod(self._skipped, WORD_BYTES)
        self._tally.corrupted += words
        self._tally.misaligned += odd_bytes > 0
        if odd_bytes and self._held.size:
            # A byte missing from the end of the held word would show only now.
            pieces.append(1)
            self._tally.corrupted += 1
        else:
            pieces.append(self._held)
        if self._next is not None:
            pieces.append(words + (counter - self._next - words) % COUNTER_PERIOD)
        self._held = self._held[:0]
        self._next = counter
        self._searching = False
        self._skipped = 0

    def _block(self, pieces: list[Piece]) -> SampleBlock:
        """Convert words, and gaps given as numbers of samples, to a block."""
        first = self._tally.samples
        gaps = [np.full(piece, _GAP, np.uint32) if isinstance(piece, int) else piece for piece in pieces]
        words = np.concatenate(gaps) if gaps else np.empty(0, np.uint32)
        gap = words == _GAP
        current = self._currents[words & _VALUE_MASK]
        lost = int(np.count_nonzero(np.isnan(current)))
        full = ((words & FULL_SCALE) == FULL_SCALE) | (current > HIGHEST_CURRENT_A)
        full[np.isnan(current)] = False
        saturated = int(np.count_nonzero(full))
        logic = (words >> 24).astype(np.uint8)
        if lost:
            logic[np.isnan(current)] = 0
        tally = self._tally
        tally.samples += words.size
        tally.lost += lost
        tally.corrupted += lost - int(np.count_nonzero(gap))
        tally.saturated += saturated
        tally.in_range += np.bincount((words >> 14) & 7, minlength=8)[:RANGES]
        return SampleBlock(first, current, logic, lost, saturated)


def _counters(words: UInt32Array) -> UInt32Array:
    return (words >> np.uint32(18)) & np.uint32(COUNTER_PERIOD - 1)
