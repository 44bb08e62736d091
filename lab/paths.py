"""Where things live. Every place has one environment variable and one default."""

from __future__ import annotations

import os
from pathlib import Path


def project_root() -> Path:
    """The folder that holds ``pyproject.toml`` and ``firmware/``: the parent of this package."""
    return Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Builds and trained models: ``LAB_CACHE``, else ``hil-lab`` in the user's cache folder (XDG base directories)."""
    return _from_environment("LAB_CACHE") or (
        (_from_environment("XDG_CACHE_HOME") or Path.home() / ".cache") / "hil-lab"
    )


def store_dir() -> Path:
    """The local store: ``LAB_STORE``, else ``.lab`` beside ``pyproject.toml``."""
    return _from_environment("LAB_STORE") or project_root() / ".lab"


def state_dir() -> Path:
    """Leases and what else is shared by all processes of this host: ``LAB_STATE``, else in the store."""
    return _from_environment("LAB_STATE") or store_dir()


def reports_dir() -> Path:
    """Reports: ``LAB_REPORTS``, else ``reports`` beside ``pyproject.toml``."""
    return _from_environment("LAB_REPORTS") or project_root() / "reports"


def baselines_dir() -> Path:
    """Accepted figures, kept under version control: ``LAB_BASELINES``, else ``baselines`` beside ``pyproject.toml``."""
    return _from_environment("LAB_BASELINES") or project_root() / "baselines"


def config_dir() -> Path:
    """The benches and board kinds that come with the lab."""
    return project_root() / "device_configs"


def default_config() -> Path:
    """The bench file: ``LAB_CONFIG``, else the emulated bench."""
    return _from_environment("LAB_CONFIG") or config_dir() / "emulated.yaml"


def _from_environment(name: str) -> Path | None:
    value = os.environ.get(name, "")
    return Path(value).expanduser().absolute() if value else None
