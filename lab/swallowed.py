"""Errors that a signal's handler raised where Python lets none out: in finalizers and callbacks of the collector.

Python tells of such an error (``sys.unraisablehook``) and goes on, so what it was to end would not end: any library may
have such callbacks, Hypothesis has. Who raises errors in handlers is told of it here, and raises them again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from lab.signals import later

_MOMENT_S = 0.05


class Swallowed:
    """Watches over errors that are raised in signal handlers, until :meth:`restore`.

    Args:
        again: is given one that went nowhere, a moment later, in a thread of its own; is to raise it again.
    """

    def __init__(self, again: Callable[[BaseException], None]) -> None:
        self._again = again
        self._raised: BaseException | None = None
        self._before = sys.unraisablehook
        sys.unraisablehook = self._hook

    def watched(self, error: BaseException) -> BaseException:
        """The error, which is raised now."""
        self._raised = error
        return error

    def restore(self) -> None:
        """Watch no more; safe to call twice."""
        self._raised = None
        # Whoever hooked in later still calls this one, which then only hands on.
        if sys.unraisablehook == self._hook:
            sys.unraisablehook = self._before

    def _hook(self, unraisable: sys.UnraisableHookArgs) -> None:
        error, raised = unraisable.exc_value, self._raised
        if error is None or error is not raised:
            self._before(unraisable)
            return
        self._raised = None
        # Not here: it would be swallowed again.
        later(_MOMENT_S, lambda: self._again(error))
