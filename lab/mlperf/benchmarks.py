"""The four benchmarks and the rules of a run, as the public benchmark (v1.4) has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from lab.errors import ConfigError

Mode: TypeAlias = Literal["performance", "accuracy", "energy"]

WINDOWS = 5
WINDOW_S = 10.0
BAUD: Mapping[Mode, int] = {"performance": 115200, "accuracy": 115200, "energy": 9600}
# What the public client sends per command, at most; a command has 80 characters.
BYTES_PER_COMMAND: Mapping[Mode, int] = {"performance": 31, "accuracy": 31, "energy": 26}


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        id: what a device answers to ``profile``.
        title: for people.
        input_bytes: bytes loaded for one inference.
        results: numbers in ``m-results``.
        iterations, warmups: counts that a timed window starts with.
    """

    id: str
    title: str
    input_bytes: int
    results: int
    iterations: int
    warmups: int

    @property
    def is_anomaly_detection(self) -> bool:
        """Whether the result is an anomaly score rather than one score per class."""
        return self.results == 1


_BENCHMARKS = (
    Benchmark("kws01", "keyword spotting", 49 * 10, 12, 70, 10),
    Benchmark("ic01", "image classification", 32 * 32 * 3, 10, 20, 5),
    Benchmark("vww01", "visual wake words", 96 * 96 * 3, 2, 20, 5),
    Benchmark("ad01", "anomaly detection", 640 * 4, 1, 1500, 10),
)
IDS = tuple(benchmark.id for benchmark in _BENCHMARKS)


def benchmark(name: str) -> Benchmark:
    """The benchmark of an id.

    Raises:
        ConfigError: there is none; lists those there are.
    """
    for one in _BENCHMARKS:
        if one.id == name:
            return one
    raise ConfigError(f"there is no benchmark {name!r}", hint=f"there are {', '.join(IDS)}")
