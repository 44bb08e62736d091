"""What devices say, made fit for terminals and reports: the one place where control characters become visible.

A board, a phone or a server may send any bytes, by accident or on purpose: escape sequences that move the cursor,
rename the window or paste into the shell, bells, and marks that turn the direction of writing so that a line reads as
something else. All errors (:class:`lab.errors.LabError`), all progress lines, all texts of the wire protocol and the
evidence of failures pass through :func:`printable`.
"""

from __future__ import annotations

import re

# C0 and C1 controls but for tab and line feed; the marks of direction, the line and paragraph separators and the byte
# order mark (Unicode 15, UAX #9 table 4); lone surrogates, which no encoder takes; tag characters, which nobody sees.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""The same text with every control character as its escape: ESC as ``\x1b``, an override as ``\u202e``.

    Line feeds and tabs stay; a carriage return before a line feed goes. Text that has none is returned as it is, and
    what was made printable once stays the same.
    """
    return _UNSAFE.sub(_escape, text.replace("\r\n", "\n"))


def _escape(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
