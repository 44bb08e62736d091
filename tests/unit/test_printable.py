"""What devices say, on terminals and pages: no control character survives, and nothing else is lost."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
from helpers.store_runs import make_run
from hypothesis import given
from hypothesis import strategies as st

from lab import progress
from lab.errors import Crash, InfrastructureError, LabError, ToolMissing
from lab.heard import KEPT_BYTES, SHOWN_LINES, Heard
from lab.printable import printable
from lab.wire_frames import encode_frame
from measurements.record import RunDetail
from measurements.report import render

# Clears the screen; sets the title; answers a question as if typed; bell; overrides the direction; C1's CSI.
ATTACK = "\x1b[2J\x1b]0;owned\x07 \x1b[6n safe \u202etxt.exe\u2066 \x9b31m\x08\x08"


def _controls(text: str) -> list[str]:
    """Independent of the pattern: Unicode's own categories and directions."""
    return [
        char
        for char in text
        if (unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") and char not in "\n\t")
        or unicodedata.bidirectional(char) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")
    ]


@given(st.text())
def test_nothing_that_steers_is_left_and_doing_it_twice_changes_nothing(text: str) -> None:
    shown = printable(text)
    assert not _controls(shown)
    assert printable(shown) == shown


@given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs"))))
def test_what_people_read_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


def test_escapes_can_be_read() -> None:
    assert printable("a\x1b[31mb\r\nc\td\u202e") == "a\\x1b[31mb\nc\td\\u202e"


@pytest.mark.parametrize("kind", [LabError, InfrastructureError, Crash, ToolMissing])
def test_every_error_is_printable_wherever_it_is_shown(kind: type[LabError]) -> None:
    error = kind(f"the device said {ATTACK}", hint=f"ask {ATTACK}")
    for text in (str(error), error.message, error.hint, repr(error), *map(str, error.args)):
        assert not _controls(text)
    assert "safe" in str(error)


def test_so_is_every_line_of_progress() -> None:
    lines: list[str] = []
    progress.set_sink(lines.append)
    try:
        progress.say(ATTACK)
        with progress.step(ATTACK) as step:
            step.last_line_s = -10.0
            step.update(1, 2, ATTACK)
    finally:
        progress.set_sink(None)
    assert len(lines) == 4
    assert not _controls("".join(lines))


def test_a_page_shows_no_control_character_nor_markup_of_a_device() -> None:
    run = make_run(1)
    hostile = f"{ATTACK}<script>alert(1)</script>"
    detail = RunDetail(notes=(hostile,), evidence=(("console", hostile),), meter_notes=(hostile,))
    page = render([replace(run, detail=detail, error=hostile, retries=(hostile,), status="error")], {})
    assert not _controls(page)
    assert "<script>alert" not in page
    assert "Evidence: console" in page


def test_the_last_of_a_console_frames_as_json_and_text_as_text() -> None:
    heard = Heard()
    heard.feed(b"boot \x1b[31mred\n\x00" + encode_frame({"t": "log", "m": "hi\x07"}) + b"half")
    assert heard.lines() == ["boot \\x1b[31mred", '{"t": "log", "m": "hi\\u0007"}', "half"]


def test_a_console_that_never_ends_is_not_kept_whole() -> None:
    heard = Heard()
    for number in range(20_000):
        heard.feed(b"line %d with some more text\n" % number)
    assert len(heard._kept) <= 2 * KEPT_BYTES
    assert len(heard.lines()) == SHOWN_LINES
    assert heard.lines()[-1] == "line 19999 with some more text"
