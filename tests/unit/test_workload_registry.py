"""The registry of workloads: every entry is whole, errors name the nearest, nothing heavy is imported."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import lab.workloads
from lab.errors import ConfigError

HEAVY = {"torch", "sklearn", "scipy", "pandas", "pyarrow", "matplotlib"}


def imported_by(code: str) -> set[str]:
    command = [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"]
    return set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())


def test_every_workload_is_listed_once_under_its_id() -> None:
    workloads = lab.workloads.all_workloads()
    ids = [workload.id for workload in workloads]
    assert "spoken-digits" in ids
    assert ids == sorted(set(ids))
    for workload in workloads:
        assert lab.workloads.get(workload.id) is workload
        assert workload.title
        assert type(workload).__module__.startswith(f"lab.workloads.{workload.family}.")


@pytest.mark.parametrize("wrong", ["spoken_digits", "spoken-digit", "Spoken-digits"])
def test_unknown_id_suggests_the_nearest(wrong: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no workload '{wrong}'; there are: .*spoken-digits") as caught:
        lab.workloads.get(wrong)
    assert caught.value.hint == "did you mean 'spoken-digits'?"


def test_unknown_id_with_nothing_near_says_where_to_look() -> None:
    with pytest.raises(ConfigError, match="there is no workload 'zzz'") as caught:
        lab.workloads.get("zzz")
    assert "lab workloads" in caught.value.hint


def test_importing_the_package_imports_nothing_heavy_and_no_workload() -> None:
    modules = imported_by("import lab.workloads")
    assert not HEAVY & modules
    assert "lab.workloads.inference.spoken_digits" not in modules


def test_listing_all_workloads_imports_nothing_heavy() -> None:
    assert not HEAVY & imported_by("import lab.workloads; lab.workloads.all_workloads()")


def test_every_claim_names_a_system_and_a_baseline_of_its_workload_and_says_why_ours_differs() -> None:
    for workload in lab.workloads.all_workloads():
        assert set(workload.classes) <= {"mcu", "linux", "phone", "host"}
        assert workload.classes
        for claim in workload.claims:
            assert claim.system in workload.systems
            assert claim.baseline in ("", *workload.baselines)
            assert claim.baseline or claim.against is not None, "a figure compared with itself"
            assert all((claim.text, claim.source, claim.why))


def test_systems_have_the_form_of_the_catalogues_ids() -> None:
    for workload in lab.workloads.all_workloads():
        for system in workload.systems:
            assert re.fullmatch(r"S\d{3}", system), workload.id


@pytest.mark.parametrize("name", ["digits-transfer", "lean-tta", "od-tta", "sparse-update", "tinytl", "tinytrain"])
def test_methods_of_compiled_c_alone_run_on_the_computer_itself_as_well(name: str) -> None:
    assert lab.workloads.get(name).classes == ("mcu", "linux", "phone", "host")
