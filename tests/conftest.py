"""What several tests need: pytest's own tester, and a private place for what the lab writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.sandbox import foreign_names, private_places
from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

# Workers side by side: OpenMP's threads wait by spinning; twice as many of them as cores take up to ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How fast a shared machine is today says nothing of the code.
settings.register_profile("lab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("lab")


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the builds of a test session."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def private_lab(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the store, state and reports of a test; nothing of the user's is read or written."""
    for name in foreign_names():
        monkeypatch.delenv(name)
    for name, value in private_places(tmp_path, shared_cache).items():
        monkeypatch.setenv(name, value)
    return tmp_path
