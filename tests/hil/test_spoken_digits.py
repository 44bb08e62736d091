"""The main job: an int8 keyword network on every device of the bench."""

from __future__ import annotations

import pytest

from fixtures.plugin import Deploy, Measure


@pytest.mark.hil
@pytest.mark.devices("class:mcu")
@pytest.mark.budget(peak_ram="256 KiB", flash="256 KiB")
def test_spoken_digits(deploy: Deploy, measure: Measure, device: object) -> None:
    """Every clip of the held-out speaker, on the device: same answers as the integer reference, bit for bit."""
    measurement = measure(deploy("spoken-digits"))
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.accuracy >= measurement.median("accuracy.reference", "run") - 0.02
