"""Run all tests, several at a time; the few that fail beside others run once more, alone on the machine.

Tests with real emulators and servers wait for other programs, and on a shared machine of two cores these may not get
their turn in time. Alone they must pass, else the run fails, and what passed only alone is named at the end. Tests of
`tests/unit` get no second run, nor does anything where more than a handful failed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SHARED = ("tests/emulated/", "tests/faults/", "tests/hil/")
"""Where tests talk to other programs."""
MOST = 5
"""So many may run once more: more than that is no accident of timing."""
FAILED = 1  # pytest's exit status where tests failed


def failed_tests(cache: Path) -> list[str]:
    """Tests that the last run noted as failed, without the group that pytest-xdist appends."""
    noted = json.loads((cache / "v/cache/lastfailed").read_text())
    return sorted({one.rpartition("@")[0] if one.rfind("@") > one.rfind("]") else one for one in noted})


def main(arguments: list[str]) -> int:
    """pytest's exit status, of the second run where there was one."""
    pytest = [sys.executable, "-m", "pytest"]
    status = subprocess.run([*pytest, "--cache-clear", *arguments], check=False).returncode
    if status != FAILED:
        return status
    tests = failed_tests(Path(".pytest_cache"))
    if not tests or len(tests) > MOST or not all(one.startswith(SHARED) for one in tests):
        return status
    print(f"\n{len(tests)} failed beside others; once more, alone:", *tests, sep="\n  ", flush=True)
    status = subprocess.run([*pytest, *tests], check=False).returncode
    if status == 0:
        print("\nFailed beside others, passed alone:", *tests, sep="\n  ")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
