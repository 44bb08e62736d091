"""Training on every microcontroller of the bench: turned digits, within the memory of small parts."""

from __future__ import annotations

import pytest

from fixtures.plugin import Deploy, Measure


@pytest.mark.hil
@pytest.mark.devices("class:mcu")
@pytest.mark.budget(peak_ram="128 KiB", flash="256 KiB")
def test_digits_transfer(deploy: Deploy, measure: Measure) -> None:
    """Sparse int8 updates on the device: losses and variables of the host's build, and near PyTorch's accuracy."""
    measurement = measure(deploy("digits-transfer"))
    assert measurement.accuracy >= measurement.median("accuracy.untrained", "run") + 0.2
    assert measurement.accuracy >= measurement.median("accuracy.reference", "run") - 0.1
    assert measurement.median("loss.last", "run") < 0.6 * measurement.median("loss.first", "run")
    assert measurement.median("arena", "run") == measurement.median("arena.lower_bound", "run")
