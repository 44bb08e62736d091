"""From the ``model`` of a bench entry to its dialect."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lab.power.scpi_models.base import AnyDialect
from lab.power.scpi_models.keithley2450 import Keithley2450
from lab.power.scpi_models.n6705 import N6705
from lab.power.scpi_models.rigol import RigolDp832
from lab.power.scpi_models.rohde_schwarz import RohdeSchwarzNgu
from lab.power.scpi_models.siglent import SiglentSdm, SiglentSpd
from lab.power.scpi_models.truevolt import Truevolt

MODELS: Mapping[str, Callable[[], AnyDialect]] = {
    "n6705": N6705,
    "34465a": Truevolt,
    "2450": Keithley2450,
    "ngu": RohdeSchwarzNgu,
    "dp832": RigolDp832,
    "spd3303x": SiglentSpd,
    "sdm3065x": SiglentSdm,
}
