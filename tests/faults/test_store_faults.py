"""Faults of this computer: its disk, its clock, its store and the mirror of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import store_drills as drills
from faults.catalogue import of
from faults.fault import Fault
from helpers.toolchain import needs_host_compiler

from measurements.store import Store

pytestmark = needs_host_compiler


@pytest.mark.parametrize("fault", of("This computer and the store"), ids=str)
def test_a_fault_of_this_computer(fault: Fault, tmp_path: Path) -> None:
    with drills.store_bench(tmp_path) as bench:
        left = drills.DRILLS[fault.name](bench)
        assert (type(left.error) if left.error else None, left.kept) == (fault.error, fault.kept), left.error
        if left.error is not None:
            # Nothing that this computer lacks counts against the device.
            assert not bench.look_after("test_that_meets_the_fault", left.error).text.count("quarantine")
        bench.mend()
        assert bench.run().status == "passed"
        with Store(bench.folder) as store:
            assert store.verify().problems == ()
