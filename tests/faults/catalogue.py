"""Every fault that the suite injects; ``docs/faults.md`` shows it as tables.

After a change, ``PYTHONPATH=tests python tests/faults/catalogue.py`` writes the page anew.
"""

from __future__ import annotations

from typing import get_args

from faults.board_catalogue import BOARD_FAULTS
from faults.computer_catalogue import COMPUTER_FAULTS
from faults.fault import Area, Fault, tables

from lab.paths import project_root

CATALOGUE: tuple[Fault, ...] = (*BOARD_FAULTS, *COMPUTER_FAULTS)
PAGE = project_root() / "docs" / "faults.md"
BEGIN = "<!-- from tests/faults/catalogue.py -->\n"
END = "<!-- end -->\n"


def of(area: Area) -> list[Fault]:
    """The faults of an area, for the parameters of its tests."""
    return [fault for fault in CATALOGUE if fault.area == area]


def rendered(page: str) -> str:
    """A page with the tables of the catalogue in place of what stands between its marks.

    Raises:
        ValueError: it has no marks.
    """
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    if END not in rest:
        raise ValueError(f"{PAGE} has no place for the tables: {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{tables(CATALOGUE, get_args(Area))}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
