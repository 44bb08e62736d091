"""What a finished measurement gives a test or a command."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.errors import ConfigError
from lab.workloads.base import Score
from measurements.record import Record, Run, Trace


@dataclass(frozen=True)
class Measurement:
    """A finished measurement.

    Attributes:
        run: records and provenance, as stored.
        outputs: int8, shape (count, output bytes): what the device computed.
        scores: the workload's own figures.
        trace: the power trace, None where the device is not metered.
    """

    run: Run
    outputs: npt.NDArray[np.int8]
    scores: tuple[Score, ...]
    trace: Trace | None = None

    def record(self, metric: str, region: str = "inference") -> Record:
        """The record of a metric.

        Raises:
            ConfigError: there is none; lists what was measured.
        """
        for record in self.run.records:
            if record.metric == metric and record.region == region:
                return record
        there = ", ".join(sorted({f"{record.metric} [{record.region}]" for record in self.run.records}))
        raise ConfigError(f"nothing measured {metric!r} in region {region!r}; measured: {there}")

    def median(self, metric: str, region: str = "inference") -> float:
        """Median of a metric in its own unit."""
        return self.record(metric, region).median

    @property
    def accuracy(self) -> float:
        """Accuracy on the device."""
        return self.median("accuracy", "run")
