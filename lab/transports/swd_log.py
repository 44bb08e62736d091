"""The last that pyOCD and our own link said of debug probes, kept for the evidence of a failure."""

from __future__ import annotations

import logging
from collections import deque

from lab.printable import printable

KEPT_LINES = 60
_PYOCD = "pyocd"


class ProbeLog(logging.Handler):
    """Keeps the last lines; of all probes that this process uses, since pyOCD logs for all of them together."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.note(self.format(record))

    def note(self, line: str) -> None:
        """Keep a line of our own."""
        self._lines.append(printable(line))

    def text(self) -> str:
        """What was kept, oldest line first."""
        return "\n".join(self._lines)


PROBE_LOG = ProbeLog()


def keep_log() -> None:
    """Listen to pyOCD from now on; its loggers get no other handler, so that nothing goes to the terminal."""
    logger = logging.getLogger(_PYOCD)
    if PROBE_LOG not in logger.handlers:
        logger.addHandler(PROBE_LOG)
        logger.setLevel(min(logger.level or logging.INFO, logging.INFO))
