"""A Python without what Windows has not: the environment of a child process, and the lists of what is taken away."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from helpers.sandbox import TESTS, environment

FOLDER = Path(__file__).resolve().parent / "without_posix"


def _load() -> ModuleType:
    # Named otherwise, because as sitecustomize it takes away.
    spec = importlib.util.spec_from_file_location("what_is_taken_away", FOLDER / "sitecustomize.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_TAKEN = _load()
MODULES: frozenset[str] = _TAKEN.MODULES - {"pyocd"}
NAMES: frozenset[str] = frozenset(
    f"{module.__name__}.{name}" for module, names in _TAKEN.NAMES.items() for name in names
)


def poor_environment(folder: Path, cache: Path, **more: str) -> Mapping[str, str]:
    """A whole environment for a child process that has neither the POSIX modules nor a PATH.

    Args:
        folder: takes the store, the state and the reports.
        cache: takes builds and trained models.
        more: further variables.
    """
    return environment(folder, cache) | {
        "PATH": str(folder / "empty"),
        "PYTHONPATH": os.pathsep.join([str(FOLDER), str(TESTS)]),
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONIOENCODING": "cp1252",
        "PYTHONUTF8": "0",
        "USER": "somebody",
        **more,
    }
