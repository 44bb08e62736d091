"""Tests that fail beside others run once more, alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BESIDE_OTHERS = "import os\ndef test_it(): assert 'PYTEST_XDIST_WORKER' not in os.environ\n"
ALWAYS = "import pytest\n@pytest.mark.parametrize('n', range({}))\ndef test_it(n): assert n < 0\n"
NEVER = "def test_it(): pass\n"


def run(folder: Path, **files: str) -> tuple[int, str]:
    for kind, text in files.items():
        place = folder / "tests" / kind
        place.mkdir(parents=True)
        (place / f"test_of_{kind}.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    done = subprocess.run(
        [sys.executable, ROOT / "scripts/run_tests.py", "-n", "1", "-p", "no:hil-lab"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")},
    )
    return done.returncode, done.stdout


def test_what_passes_alone_is_named(tmp_path: Path) -> None:
    status, said = run(tmp_path, emulated=BESIDE_OTHERS, unit=NEVER)
    assert status == 0, said
    assert said.endswith("Failed beside others, passed alone:\n  tests/emulated/test_of_emulated.py::test_it\n")


def test_what_fails_alone_fails(tmp_path: Path) -> None:
    status, said = run(tmp_path, emulated=ALWAYS.format(1), unit=NEVER)
    assert status == 1
    assert "once more" in said
    assert "passed alone" not in said


@pytest.mark.parametrize(
    "files", [{"unit": BESIDE_OTHERS}, {"unit": BESIDE_OTHERS, "faults": BESIDE_OTHERS}, {"hil": ALWAYS.format(6)}]
)
def test_unit_tests_and_many_failures_get_no_second_run(tmp_path: Path, files: dict[str, str]) -> None:
    status, said = run(tmp_path, **files)
    assert status == 1
    assert "once more" not in said


def test_groups_are_no_part_of_a_name(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from run_tests import failed_tests
    finally:
        sys.path.pop(0)
    cache = tmp_path / "v/cache"
    cache.mkdir(parents=True)
    noted = {"tests/hil/test_a.py::test_b[m4f]@m4f": True, "tests/hil/test_a.py::test_b[a@b]": True}
    (cache / "lastfailed").write_text(json.dumps(noted))
    assert failed_tests(tmp_path) == ["tests/hil/test_a.py::test_b[a@b]", "tests/hil/test_a.py::test_b[m4f]"]
