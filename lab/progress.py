"""Says what is happening in anything that may take longer than two seconds.

Code reports steps; whoever owns the screen (the CLI, the pytest plugin) chooses where they go by :func:`set_sink`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from lab.printable import printable

Sink = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Write a line to standard error; the sink where nobody chose another."""
    print(line, file=sys.stderr, flush=True)


_sink: Sink = to_stderr


def set_sink(sink: Sink | None) -> None:
    """Send progress lines to ``sink``; ``None`` restores standard error."""
    global _sink
    _sink = sink or to_stderr


def say(line: str) -> None:
    """Show one line, where progress goes."""
    _sink(printable(line))


@dataclass
class Step:
    """A step under way; :meth:`update` may be called as often as wanted, a line appears every two seconds at most."""

    title: str
    started_s: float = field(default_factory=time.monotonic)
    last_line_s: float = field(default_factory=time.monotonic)

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Report that ``done`` of ``total`` are done."""
        now = time.monotonic()
        if now - self.last_line_s >= 2.0:
            self.last_line_s = now
            share = f"{100 * done // max(total, 1):3d} %"
            say(f"  {self.title}: {share} ({done}/{total}) {detail}".rstrip())


@contextmanager
def step(title: str, *, quiet_below_s: float = 0.0) -> Iterator[Step]:
    """Report the begin and end of a step.

    Args:
        title: what is being done, in the user's words.
        quiet_below_s: say nothing at the start and nothing at the end of a step shorter than this.
    """
    current = Step(title)
    if quiet_below_s == 0.0:
        say(f"* {title} …")
    yield current
    elapsed = time.monotonic() - current.started_s
    if elapsed >= quiet_below_s:
        say(f"  {title}: done in {elapsed:.1f} s")
