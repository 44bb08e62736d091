"""Which runs of a store: the same few terms for reading, exporting and pruning."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from lab.errors import ConfigError

When = datetime | str


@dataclass(frozen=True)
class Selection:
    """Runs that match every term that is not None.

    Attributes:
        workload, variant, device, board, commit: as in the run's provenance.
        session: session id.
        status: ``passed``, ``failed``, ``error`` or ``incomplete``.
        since: runs that start at or after this; text is ISO 8601, and UTC where it names no zone.
        until: runs that start before this.

    Raises:
        ConfigError: ``since`` or ``until`` is no time, or nothing can lie between them.
    """

    workload: str | None = None
    variant: str | None = None
    device: str | None = None
    board: str | None = None
    commit: str | None = None
    session: str | None = None
    status: str | None = None
    since: When | None = None
    until: When | None = None

    def __post_init__(self) -> None:
        since, until = nanoseconds(self.since), nanoseconds(self.until)
        if since is not None and until is not None and since >= until:
            raise ConfigError(f"no run starts since {self.since} and until {self.until}", hint="swap the two")

    def where(self) -> tuple[str, dict[str, str | int]]:
        """The condition on the table ``runs`` in SQL, and the values of its parameters."""
        terms: dict[str, tuple[str, str | int | None]] = {
            "json_extract(provenance, '$.workload') = :workload": ("workload", self.workload),
            "json_extract(provenance, '$.variant') = :variant": ("variant", self.variant),
            "json_extract(provenance, '$.device') = :device": ("device", self.device),
            "json_extract(provenance, '$.board') = :board": ("board", self.board),
            "json_extract(provenance, '$.git_commit') = :commit": ("commit", self.commit),
            "session_id = :session": ("session", self.session),
            "status = :status": ("status", self.status),
            "started_ns >= :since": ("since", nanoseconds(self.since)),
            "started_ns < :until": ("until", nanoseconds(self.until)),
        }
        used = {term: (name, value) for term, (name, value) in terms.items() if value is not None}
        return " AND ".join(used) or "1", dict(used.values())


def nanoseconds(when: When | None) -> int | None:
    """Nanoseconds since the epoch; None for None.

    Raises:
        ConfigError: the text is no time.
    """
    if when is None:
        return None
    if isinstance(when, str):
        try:
            when = datetime.fromisoformat(when)
        except ValueError as error:
            raise ConfigError(
                f"{when!r} is no time", hint="write it like 2026-11-21, or 2026-11-21T08:30:00+00:00 (UTC without zone)"
            ) from error
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    since_epoch = when - datetime(1970, 1, 1, tzinfo=UTC)
    return (since_epoch.days * 86_400 + since_epoch.seconds) * 10**9 + since_epoch.microseconds * 1000


EVERYTHING = Selection()
