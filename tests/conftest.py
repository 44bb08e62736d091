"""What several tests need: pytest's own tester, and a private place for what the lab writes."""

from __future__ import annotations

import gc
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.sandbox import foreign_names, private_places
from hypothesis import HealthCheck, settings

import lab.workloads

if TYPE_CHECKING:
    from helpers.schedule import Scheduling
    from xdist.remote import Producer

pytest_plugins = ["pytester"]

# Workers side by side: OpenMP's threads wait by spinning; twice as many of them as cores take up to ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How fast a shared machine is today says nothing of the code.
settings.register_profile("lab", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("lab")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Workers get whole files, where xdist was told no other way."""
    if config.option.dist != "loadgroup":  # what the plugin makes of xdist's default
        return None
    from helpers.schedule import Scheduling

    return Scheduling(config, log)


def pytest_collection_finish() -> None:
    """What is there by now stays: pytest collects garbage five times at the end of every session, inner ones too, which
    takes a second each where all of PyTorch is looked through."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """At the end of the process everything may go."""
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def own_workloads() -> Iterator[None]:
    """Workloads that a file adds for its tests are not there for those of other files."""
    known = dict(lab.workloads._REGISTRY)
    yield
    lab.workloads._REGISTRY.clear()
    lab.workloads._REGISTRY.update(known)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the builds of a test session, also of one that several workers share."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def private_lab(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that takes the store, state and reports of a test; nothing of the user's is read or written."""
    for name in foreign_names():
        monkeypatch.delenv(name)
    for name, value in private_places(tmp_path, shared_cache).items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.fixture
def no_tools_of_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip installed beside Python (cmake, ninja, zig) is not found."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name))
