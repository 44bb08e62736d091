"""What becomes of the figures of a device that was throttled while it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from measurements.environment import Environment
from measurements.record import Record, Rejection

_OF_ENERGY = ("energy", "charge", "power")
_OF_TIME = ("latency",)


def mark_throttled(
    records: Sequence[Record], environment: Environment | None
) -> tuple[tuple[Record, ...], tuple[Rejection, ...]]:
    """Records with what they are worth on a throttled device: latency marked, measured energy rejected.

    A device that slowed down was another device for a while. Its latency is one that its users meet too, so it is
    kept and says so; a joule of it would be compared with joules of the whole device, so it is not.

    Args:
        records: of the run.
        environment: of the run; None where the device has none.

    Returns:
        What is kept, and the reason where energy was taken out.
    """
    if environment is None or not environment.throttled:
        return tuple(records), ()
    why = "; ".join(environment.throttled)
    kept = tuple(_marked(record, why) for record in records if not _is_energy(record))
    if len(kept) == len(records):
        return kept, ()
    return kept, (Rejection("thermal-throttling", f"the device was held back: {why}", transient=True),)


def _is_energy(record: Record) -> bool:
    return record.source == "hardware" and record.metric.partition(".")[0] in _OF_ENERGY


def _marked(record: Record, why: str) -> Record:
    if record.metric.partition(".")[0] not in _OF_TIME:
        return record
    return replace(record, note="; ".join(part for part in (record.note, f"THROTTLED: {why}") if part))
