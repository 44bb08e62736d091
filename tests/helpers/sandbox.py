"""A private place for everything the lab writes, as environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent

_OURS = (
    "LAB_CONFIG", "LAB_DEVICE", "LAB_STRICT", "LAB_NO_REPORT", "LAB_DATA", "LAB_COMPARE", "LAB_BASELINES",
)  # fmt: skip
_OF_PYTEST = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_TESTRUNUID")


def private_places(folder: Path, cache: Path) -> dict[str, str]:
    """Where the lab is to put things.

    Args:
        folder: takes the store, the state and the reports.
        cache: takes builds and trained models; may be shared.
    """
    return {
        "LAB_STORE": str(folder / "store"),
        "LAB_STATE": str(folder / "state"),
        "LAB_REPORTS": str(folder / "reports"),
        "LAB_CACHE": str(cache),
    }


def foreign_names() -> list[str]:
    """Variables of the environment that would steer a test from outside."""
    return [name for name in os.environ if name in (*_OURS, *_OF_PYTEST) or name.startswith("LAB_INFLUX_")]


def environment(folder: Path, cache: Path, **more: str) -> Mapping[str, str]:
    """A whole environment for a child process."""
    foreign = foreign_names()
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    return {**kept, **private_places(folder, cache), "PYTHONPATH": str(TESTS), **more}
