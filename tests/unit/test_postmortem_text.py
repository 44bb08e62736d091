"""A post-mortem as people read it: in an exception, in the store, in each kind of report."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from helpers.store_runs import make_run
from hypothesis import given
from hypothesis import strategies as st

from lab.errors import Crash, CrashReport, DeviceError, FaultBit, Hang, OutOfMemory, StackFrame, StackUse
from lab.postmortem.fault_status import decode
from lab.postmortem.text import explained, render, whereabouts
from measurements.report import render as render_page
from measurements.report.junit import render_junit
from measurements.report.markdown import render_markdown
from measurements.report.night import NightCell, NightSummary
from measurements.store import Store

REGISTERS = {
    "r0": 1, "r10": 10, "r2": 2, "sp": 0x20003F18, "lr": 0x1967, "pc": 0xCDE, "xpsr": 0x61000000,
    "exc_return": 0xFFFFFFFD, "cfsr": 0x8200, "hfsr": 0x40000000, "bfar": 0x5FFF0000,
}  # fmt: skip
FRAMES = (
    StackFrame(0xCDE, "job_crash", "job_test.c:16", "registers"),
    StackFrame(0x2742, "handle_run", "session.c:369", "inlined"),
    StackFrame(0x2742, "session_receive", "session.c:409", "unwound"),
    StackFrame(0x1676, "lab_main", "main.c:19", "scan"),
    StackFrame(0x10, "", "", "link-register"),
)
STACKS = (
    StackUse("lab_stack", 0x20000000, 0x20004000, 0x20003F18, 380),
    StackUse("handler_stack", 0x20005B30, 0x20006330),
)
LOCATION = "job_crash at job_test.c:16"
REPORT = CrashReport(REGISTERS, LOCATION, "inference", (), 380, decode(REGISTERS), FRAMES, "", STACKS)
EXPECTED = """\
  faults:
    CFSR PRECISERR: the bus answered a load or store with an error; the stacked pc is that instruction
      usually: a pointer to where nothing is mapped, or a peripheral whose clock is off
    HFSR FORCED: another fault became a hard fault: its handler is off, or its priority too low
      usually: see the other fault registers
    BFAR 0x5fff0000: the address of the access that failed
  registers:
    pc=0x00000cde lr=0x00001967 sp=0x20003f18 xpsr=0x61000000
    bfar=0x5fff0000 cfsr=0x00008200 exc_return=0xfffffffd hfsr=0x40000000
    r0=0x00000001 r2=0x00000002 r10=0x0000000a
    xpsr: ZC, thread mode
    exc_return: returns to thread mode, frame on the process stack without floating-point registers
  backtrace:
    #0  0x00000cde job_crash at job_test.c:16
    #1  0x00002742 handle_run at session.c:369  (inlined)
    #2  0x00002742 session_receive at session.c:409
    #3  0x00001676 lab_main at main.c:19  (found on the stack: may be left over)
    #4  0x00000010 no function of the image  (by the link register)
  stacks:
    lab_stack [0x20000000, 0x20004000), 16384 bytes; pointer 0x20003f18, 232 in use; 380 at the most
    handler_stack [0x20005b30, 0x20006330), 2048 bytes"""


def test_everything_is_told_in_order() -> None:
    assert render(REPORT) == EXPECTED


def test_nothing_is_told_of_nothing() -> None:
    assert render(CrashReport()) == ""
    error = explained(OutOfMemory("no room", hint="more room"), CrashReport())
    assert str(error) == "no room\n  -> more room"


@pytest.mark.parametrize(
    ("error", "first"),
    [
        (Crash("a fault"), "a fault; the core was at job_crash at job_test.c:16 in region 'inference'"),
        (Hang("silence"), "silence; the core is at job_crash at job_test.c:16 in region 'inference'"),
        (OutOfMemory("full\nmore"), "full; the core was at job_crash at job_test.c:16 in region 'inference'"),
    ],
)
def test_the_first_line_says_where(error: DeviceError, first: str) -> None:
    error.hint = "do this"
    told = explained(error, REPORT)
    assert type(told) is type(error)
    assert told.report is REPORT
    lines = str(told).splitlines()
    assert lines[0] == first
    assert EXPECTED in str(told)
    assert ("more" in lines) is ("more" in error.message)
    assert lines[-1] == "  -> do this"


def test_without_a_place_the_region_is_told() -> None:
    told = explained(Crash("a signal"), CrashReport({"signal": 11}, region="inference"))
    assert str(told).splitlines()[0] == "a signal in region 'inference'"


def test_what_is_not_known_is_said() -> None:
    assert whereabouts(CrashReport(region="adapt")) == "the core is at an unknown place in region 'adapt'"
    ended = replace(REPORT, backtrace=FRAMES[:1], ended="the stack was not sent")
    assert "#0  0x00000cde job_crash at job_test.c:16\n    the backtrace ends: the stack was not sent" in render(ended)


def test_an_overflow_stands_out() -> None:
    over = StackUse("lab_stack", 0x20000000, 0x20004000, 0x1FFFFF00, 16384, overflowed=True)
    text = render(CrashReport(stacks=(over,)))
    assert "16384 bytes; OVERFLOWED; pointer 0x1fffff00, outside of it; 16384 at the most" in text


def test_recursion_is_told_once() -> None:
    frames = [StackFrame(0xCC6, "recurse", "job_test.c:46", "unwound")] * 30
    text = render(CrashReport(backtrace=(*frames, FRAMES[2])))
    assert text.count("recurse") == 1
    assert "… and 29 more of the same" in text
    assert "#30 0x00002742 session_receive" in text


@given(st.builds(FaultBit, *[st.text(min_size=1, max_size=300)] * 4))
def test_long_words_are_wrapped_and_none_is_lost(fault: FaultBit) -> None:
    text = render(CrashReport(faults=(fault,)))
    # No line is longer than the rest of the output allows, unless one word is.
    longest = max((len(word) for word in re.split(r"\s", text)), default=0)
    assert all(len(line) <= max(120, longest + 12) for line in text.split("\n"))


# ---- where users look -----------------------------------------------------------------------------------------------

ERROR = str(explained(Crash("the device reported 'crash': <b>&amp;", hint="look at the line"), REPORT))


def test_the_store_keeps_every_line(tmp_path: Path) -> None:
    run = replace(make_run(1), status="failed", error=ERROR)
    with Store(tmp_path) as store:
        store.save(run, None)
        (kept,) = store.runs()
    assert kept.error == ERROR


def test_the_page_shows_it_escaped_in_a_fixed_font() -> None:
    page = render_page([replace(make_run(1), status="failed", error=ERROR)], {}, title="t")
    shown = re.search(r"<pre>(.*?)</pre>", page, re.DOTALL)
    assert shown is not None
    assert "&lt;b&gt;&amp;amp;" in shown[1]
    assert "<b>" not in shown[1]
    lines = shown[1].splitlines()
    assert "    #3  0x00001676 lab_main at main.c:19  (found on the stack: may be left over)" in lines
    assert "    bfar=0x5fff0000 cfsr=0x00008200 exc_return=0xfffffffd hfsr=0x40000000" in lines
    assert re.search(r"pre \{[^}]*white-space: pre-wrap;[^}]*monospace", page)


def test_junit_carries_it_whole_and_where_in_its_message() -> None:
    root = ET.fromstring(render_junit([replace(make_run(1), status="failed", error=ERROR)]))
    (failure,) = root.iter("failure")
    assert failure.text is not None
    assert EXPECTED in failure.text
    assert failure.get("message", "").endswith("the core was at job_crash at job_test.c:16 in region 'inference'")


def test_a_comment_on_a_pull_request_says_where_on_one_line() -> None:
    cell = NightCell("m4f", "kws", "", "failed", ERROR)
    night = NightSummary("n", (cell,), (), 1.0, 2.0, 1)
    (line,) = [one for one in render_markdown([], night=night).splitlines() if "the core was" in one]
    assert "at job_crash at job_test.c:16 in region 'inference'" in line
    assert "PRECISERR" not in line
