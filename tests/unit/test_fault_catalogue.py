"""The catalogue of faults, and the page that shows it."""

from __future__ import annotations

from collections import Counter

import pytest
from faults.catalogue import CATALOGUE, PAGE, rendered
from faults.fault import Ends, Fault, tables

from lab.errors import Crash, EmulatorError


def test_the_page_shows_the_catalogue() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert rendered(page) == page, "run: PYTHONPATH=tests python tests/faults/catalogue.py"


def test_each_fault_has_a_name_of_its_own() -> None:
    assert [name for name, count in Counter(fault.name for fault in CATALOGUE).items() if count > 1] == []


def test_a_row_says_whose_failure_it_is_and_whether_it_is_measured_again() -> None:
    crash = Fault("hard fault", "Microcontrollers", "a job", Crash, "resync", ("run", "crash report"))
    power = Fault("power", "Microcontrollers", "a cut", EmulatorError, "re-deploy", ("run",), ends="measured again")
    slow = Fault("slow line", "Debug probes", "delays", None, "none needed", ("run",), ends="never")
    assert crash.row == "| hard fault | a job | `Crash` (device) | resync | run, crash report |"
    assert power.row == "| power | a cut | `EmulatorError` (infrastructure), measured again | re-deploy | run |"
    assert slow.row == "| slow line | delays | none | none needed | run |"
    text = tables((slow, power, crash), ("Microcontrollers", "Debug probes"))
    assert text.index("## Microcontrollers") < text.index(power.row) < text.index(crash.row) < text.index(slow.row)


@pytest.mark.parametrize(
    ("error", "ends", "injected"), [(None, "raised", "x"), (Crash, "never", "x"), (Crash, "raised", "a|b")]
)
def test_an_entry_that_makes_no_sense_is_refused(error: type[Crash] | None, ends: Ends, injected: str) -> None:
    with pytest.raises(ValueError, match="hang:"):
        Fault("hang", "Microcontrollers", injected, error, "resync", ("run",), ends=ends)


def test_a_page_without_a_place_for_the_tables_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the tables"):
        rendered("# Faults\n")
