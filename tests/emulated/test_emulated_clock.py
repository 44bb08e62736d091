"""What the clock of an emulated board is called in a run's record."""

from __future__ import annotations

import pytest
from helpers import tiny_workload
from helpers.conformance import entries, version
from helpers.toolchain import built, needs_qemu

from lab import runs
from lab.devices.connect import connected
from lab.paths import cache_dir

pytestmark = needs_qemu


def test_an_emulated_boards_clock_is_virtual_whatever_its_image_says() -> None:
    """The image is the real board's, with its cycle counter; in an emulator that counts instructions."""
    tiny_workload.register()
    (entry,) = (one for one in entries() if one.name == "nucleo-f446re")
    if not version(entry):
        pytest.skip("unicorn is not installed (`lab doctor` says how to get it)")
    with connected(entry, cache_dir()) as device:
        assert device.deploy(built(entry.board.kind)).clock == "dwt"
        assert runs.deploy(entry, device, tiny_workload.NAME, cache_dir()).hello.clock == "virtual"
