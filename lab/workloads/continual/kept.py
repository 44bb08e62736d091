"""What a device keeps for rehearsal, against what the reference keeps. No torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lab.errors import WorkloadError
from lab.workloads.base import Score
from lab.workloads.continual.codes import ITEM_BYTES
from lab.workloads.continual.learner_plan import ENDS, LABELS, POOL, STORE

FLOAT_BYTES = 4
MAX_UNLIKE_ITEMS = 0.05
"""Behind a float32 extractor: the share of the items that may differ, one at least."""


@dataclass(frozen=True)
class Kept:
    """What the store of the reference holds in the end.

    Attributes:
        pool: packed items, one behind another.
        ends: int32 (items,), where each ends.
        stored: bool (steps, shots), whether there was room.
        elements: of a latent.
        rounded: whether the device rounds latents that it has computed in float32. A value near the middle between two
            steps of the grid may then be rounded the other way.
    """

    pool: bytes
    ends: npt.NDArray[np.int32]
    stored: npt.NDArray[np.bool_]
    elements: int
    rounded: bool

    def check(self, raw: Mapping[str, bytes]) -> list[Score]:
        """Judge the raw bytes of a device's variables; nothing where it has no store.

        Raises:
            WorkloadError: another number of items, other items or other labels.
        """
        if STORE not in raw:
            return []
        items, used, dropped = np.frombuffer(raw[STORE], "<i4").tolist()
        there, lost = int(self.stored.sum()), int((~self.stored).sum())
        if (items, dropped) != (there, lost) or not (self.rounded or used == len(self.pool)):
            raise WorkloadError(
                f"the store holds {items} items in {used} bytes and has dropped {dropped}; the reference holds "
                f"{there} in {len(self.pool)} and has dropped {lost}"
            )
        ends = np.frombuffer(raw[ENDS], "<i4")[:items]
        unlike = self._unlike(raw[POOL], ends)
        if unlike > (max(1, int(MAX_UNLIKE_ITEMS * items)) if self.rounded else 0):
            raise WorkloadError(self._told(raw[POOL], used, unlike))
        if raw[LABELS][:items] != np.nonzero(self.stored)[0].astype(np.uint8).tobytes():
            raise WorkloadError(f"the {used} bytes of the store are not those of the reference, in its labels")
        wide = items * FLOAT_BYTES * self.elements
        kept, expected = (size + ITEM_BYTES * items for size in (used, len(self.pool)))
        largest = int(np.diff(ends, prepend=0).max()) if items else 0
        return [
            Score("replay.bytes", kept, expected, "bytes"),
            Score("replay.dropped", dropped, dropped, "items"),
            Score("replay.largest", largest, largest, "bytes"),
            Score("replay.reduction", wide / kept if kept else 0.0, wide / expected if expected else 0.0),
            *([Score("replay.unlike", unlike, 0.0, "items")] if self.rounded else []),
        ]

    def _unlike(self, pool: bytes, ends: npt.NDArray[np.int32]) -> int:
        """Items that are not the reference's."""
        pairs = zip(_parts(pool, ends), _parts(self.pool, self.ends), strict=True)
        return sum(one != other for one, other in pairs)

    def _told(self, pool: bytes, used: int, unlike: int) -> str:
        if self.rounded:
            return (
                f"{unlike} of the {len(self.ends)} items of the store are not those of the reference; behind an "
                f"extractor in float32 {MAX_UNLIKE_ITEMS:.0%} may differ by what is rounded"
            )
        place = next((n for n, pair in enumerate(zip(pool, self.pool, strict=False)) if pair[0] != pair[1]), -1)
        where = f"first at byte {place}" if place >= 0 else "in where its items end"
        return f"the {used} bytes of the store are not those of the reference, {where}"


def _parts(pool: bytes, ends: npt.NDArray[np.int32]) -> list[bytes]:
    places = [0, *ends.tolist()]
    return [pool[start:end] for start, end in pairwise(places)]
