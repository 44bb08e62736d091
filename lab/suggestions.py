"""What is allowed, and what may have been meant, for errors about a name. A leaf of the lab."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name most like ``name``, empty when none is near."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return matches[0] if matches else ""


def allowed(name: str, known: Sequence[str]) -> str:
    """The end of an error's text about ``name``: what may have been meant, and all that are known."""
    guess = nearest(name, known)
    suggestion = f"did you mean '{guess}'? " if guess else ""
    return f"{suggestion}allowed: {', '.join(known) or 'none'}"
