"""What drivers say of their streams, in words."""

from __future__ import annotations

import pytest

from lab.power.lpm01a_stream import Lpm01aReport
from lab.power.polled import PolledReport
from lab.power.ppk2_stream import StreamReport
from lab.power.scpi import ScpiReport


@pytest.mark.parametrize("report", [StreamReport(9), Lpm01aReport(9), ScpiReport(), PolledReport(9)])
def test_a_stream_that_came_whole_says_nothing(
    report: StreamReport | Lpm01aReport | ScpiReport | PolledReport,
) -> None:
    assert report.notes == ()


@pytest.mark.parametrize(
    ("report", "notes"),
    [
        (
            StreamReport(900, 5, corrupted=3, misaligned=2, duplicated=4),
            (
                "3 words came damaged and count as lost samples",
                "the word boundary was lost and found again 2 times",
                "4 words came twice and were left out",
            ),
        ),
        (StreamReport(900, 5, duplicated=4), ("4 words came twice and were left out",)),
        (
            Lpm01aReport(surplus=7, missing_edges=1, overcurrent=2, errors=("PLEASE: -12",)),
            (
                "7 samples beyond the count of their second were left out",
                "the board reported overcurrent 2 times",
                "1 events on D7 are missing by their numbers",
                "the board said: PLEASE: -12",
            ),
        ),
        (
            Lpm01aReport(corrupted=1, misaligned=2, bad_time_stamps=3),
            (
                "1 values or lines came damaged and count as lost samples",
                "2 seconds with an odd number of bytes were given up",
                "3 time stamps could not be right",
            ),
        ),
        (
            ScpiReport(missing=1, damaged=2, doubled=3, errors=('-222,"Data out of range"',)),
            (
                "1 samples never came, or were not asked for in time",
                "2 readings were no numbers and count as lost samples",
                "3 readings came twice and were left out",
                'the instrument said: -222,"Data out of range"',
            ),
        ),
        (
            PolledReport(50, missed=1, slow=2, failed=3, jumps=4),
            (
                "1 of 50 slots were missed: the host came too late",
                "2 of 50 readings took longer than a period",
                "3 of 50 readings were refused by the source",
                "4 of 50 readings of the counter can only come from a reset",
            ),
        ),
    ],
)
def test_what_went_wrong_is_said_with_its_number(
    report: StreamReport | Lpm01aReport | ScpiReport | PolledReport, notes: tuple[str, ...]
) -> None:
    assert report.notes == notes
