"""The lab's own calibrations of its meters: one JSON file per meter under the store, the newest last.

A meter is known by its kind and by what the bench file finds it by (serial number, port, address); what it then says of
itself must be what it said when it was calibrated, else another meter stands there now and its calibration is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from lab.errors import ConfigError
from lab.meter_config import MeterConfig
from lab.power.base import MeterInfo
from measurements.calibration import CalibrationPoint
from measurements.uncertainty import Correction, RangeCorrection

OLD_DAYS = 365
"""Older calibrations are used with a warning."""
_PLACES = (
    "serial_number", "port", "host", "tcp_port", "device", "resource", "model", "chip", "label", "channel", "uuid",
    "domain", "serial",
)  # fmt: skip


@dataclass(frozen=True)
class Calibration:
    """One calibration.

    Attributes:
        identity: what the meter said of itself.
        date: when, ISO 8601, UTC.
        ranges: the correction.
        points: what it was made from.
    """

    identity: str
    date: str
    ranges: tuple[RangeCorrection, ...]
    points: tuple[CalibrationPoint, ...]

    @property
    def correction(self) -> Correction:
        """What :class:`lab.metered.Metered` takes."""
        return Correction(self.date, self.ranges)

    def age_days(self, now: datetime) -> float:
        """Days between it and ``now``."""
        return (now - datetime.fromisoformat(self.date)).total_seconds() / 86400


@dataclass(frozen=True)
class Usable:
    """What is known of a meter's calibration.

    Attributes:
        calibration: the one to use; None where there is none for this very meter.
        warning: what a reader must know; empty where nothing.
    """

    calibration: Calibration | None
    warning: str = ""

    @property
    def correction(self) -> Correction | None:
        """The correction to use, if any."""
        return None if self.calibration is None else self.calibration.correction


def meter_key(config: MeterConfig) -> str:
    """The name of a meter's file: its kind, and the place where the bench finds it."""
    if config.emulated:
        return f"emulated-{config.kind}"
    places = places_of(config)
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(places)).strip("-")[-60:]
    digest = hashlib.sha256("\0".join(places).encode()).hexdigest()[:8]
    return f"{config.kind}-{plain}-{digest}" if plain else config.kind


def places_of(config: MeterConfig) -> list[str]:
    """What the bench finds a meter by, in words; empty where it takes the only one there is."""
    settings = config.model_dump()
    return [str(settings[name]) for name in _PLACES if settings.get(name) is not None]


def history(store: Path, config: MeterConfig) -> tuple[Calibration, ...]:
    """All calibrations of a meter, oldest first.

    Raises:
        ConfigError: the file is damaged.
    """
    path = _path(store, config)
    if not path.exists():
        return ()
    try:
        return tuple(_calibration(entry) for entry in json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is no list of calibrations: {error}", hint="restore it from a copy, or delete it and calibrate"
        ) from error


def save(store: Path, config: MeterConfig, calibration: Calibration) -> Path:
    """Add a calibration to a meter's file, which is replaced as a whole; its path.

    Raises:
        ConfigError: the file is damaged or cannot be written.
    """
    path = _path(store, config)
    entries = [asdict(one) for one in (*history(store, config), calibration)]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {error}", hint="choose another store (LAB_STORE)") from error
    return path


def usable(store: Path, config: MeterConfig, info: MeterInfo, old_days: float = OLD_DAYS) -> Usable:
    """The newest calibration of an open meter, and what is wrong with it.

    Raises:
        ConfigError: the file is damaged.
    """
    known = history(store, config)
    if not known:
        return Usable(None)
    last = known[-1]
    day = last.date[:10]
    if last.identity != info.identity:
        return Usable(
            None,
            f"the calibration of {day} is not used: it is of {last.identity!r}, and {info.identity!r} stands there now",
        )
    age = last.age_days(datetime.now(UTC))
    if age > old_days:
        return Usable(last, f"the calibration of {day} is {age:.0f} days old, more than {old_days:g}: calibrate again")
    return Usable(last)


def now() -> str:
    """The date of a calibration made now."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _path(store: Path, config: MeterConfig) -> Path:
    return store / "calibrations" / f"{meter_key(config)}.json"


def _calibration(entry: dict[str, object]) -> Calibration:
    ranges, points = entry["ranges"], entry["points"]
    if not isinstance(ranges, Sequence) or not isinstance(points, Sequence):
        raise ValueError("ranges and points must be lists")
    date = str(entry["date"])
    datetime.fromisoformat(date)
    return Calibration(
        identity=str(entry["identity"]),
        date=date,
        ranges=tuple(RangeCorrection(**one) for one in ranges),
        points=tuple(CalibrationPoint(**one) for one in points),
    )
