"""The main job: an int8 network for spoken digits on every microcontroller, Linux board and phone of the bench."""

from __future__ import annotations

import numpy as np
import pytest

from fixtures.plugin import Deploy, Measure
from lab.bench import Bench
from lab.devices.connect import connected
from lab.doctor import availability
from lab.passes import first_samples, outputs_of
from lab.paths import cache_dir, config_dir
from lab.runs import deploy as deploy_to

HOST_SAMPLES = 100
pytestmark = pytest.mark.timeout(900)  # the first to need the network trains it, others wait for it


@pytest.mark.hil
@pytest.mark.devices("class:mcu")
@pytest.mark.budget(peak_ram="64 KiB", flash="128 KiB")
def test_spoken_digits(deploy: Deploy, measure: Measure) -> None:
    """Every clip of the held-out speaker: the integer reference's answers to the bit, and float32's accuracy."""
    measurement = measure(deploy("spoken-digits"))
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.accuracy >= measurement.median("accuracy.reference", "run") - 0.02


@pytest.mark.hil
@pytest.mark.devices("class:linux, class:phone")
@pytest.mark.budget(peak_ram="1 MiB", flash="1 MiB")
def test_spoken_digits_on_computers(deploy: Deploy, measure: Measure) -> None:
    """The same on devices with an operating system: the same answers to the bit, in memory that their kernel saw."""
    measurement = measure(deploy("spoken-digits"))
    assert measurement.median("bit_exact", "run") == 1.0
    assert measurement.accuracy >= measurement.median("accuracy.reference", "run") - 0.02
    assert measurement.median("peak_ram.process", "run") < 4 << 20


@pytest.mark.hil
@pytest.mark.devices("class:mcu")
def test_device_equals_host(deploy: Deploy) -> None:
    """The same generated C, compiled for this computer, gives the same bytes."""
    host = Bench.load(config_dir() / "emulated.yaml").get("host")
    if reason := availability(host):
        pytest.skip(f"this computer cannot be compared with: {reason}")
    deployment = deploy("spoken-digits")
    prepared = deployment.prepared
    job = first_samples(prepared.job, prepared.model.input.size, HOST_SAMPLES)
    with connected(host, cache_dir()) as computer:
        expected = outputs_of(deploy_to(host, computer, "spoken-digits", cache_dir()), job)
    np.testing.assert_array_equal(outputs_of(deployment, job), expected)
