"""What happened to a meter's stream, in words for whoever reads the figures.

Drivers that look into their stream keep a report of it (``report``), each with fields of its own; all reports have
``notes``. Lost and saturated samples are counted by every driver.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from lab.power.base import Meter, SampleBlock


class StreamNotes(Protocol):
    """A driver's report of its stream."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the figures must know; nothing of a stream that came whole."""


@runtime_checkable
class Reporting(Protocol):
    """A meter that keeps a report; it may be asked once the stream was started."""

    @property
    def report(self) -> StreamNotes:
        """What happened to the stream so far."""


def stream_notes(meter: Meter, samples: SampleBlock) -> tuple[str, ...]:
    """What became of a stream: lost and saturated samples, then what the driver's own report says.

    Args:
        meter: after its ``start``.
        samples: the whole stream.

    Raises:
        MeterError: the stream was not started.
    """
    counts = ((samples.lost, "lost"), (samples.saturated, "at the end of the highest range"))
    said = [f"{count} of {samples.current_a.size} samples {what}" for count, what in counts if count]
    return (*said, *(meter.report.notes if isinstance(meter, Reporting) else ()))
