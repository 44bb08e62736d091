"""Which test runs where and when, in a session of several workers.

xdist hands out single tests, so that every worker sets up the fixtures of nearly every file. Here a file belongs to one
worker, and what takes longest starts first: a long file that starts last would run alone at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

LONG = (
    "test_cli_emulated.py", "test_compiler_zoo_training.py", "test_computer_faults.py", "test_digits_transfer.py",
    "test_labgrid.py", "test_training_boards.py", "test_spoken_digits.py", "test_model_files.py", "test_build_tree.py",
    "test_environment_guests.py", "test_mlperf_models.py", "test_firmware_windows.py", "test_compiler_int8_zoo.py",
    "test_unicorn_pip_only.py", "test_emulator_conformance.py", "test_training_memory.py", "test_compiler_training.py",
    "test_compiler_int8_layers.py", "test_plugin_emulated.py", "test_phone_runs.py", "test_own_firmware.py",
    "test_linux_guest.py", "test_operations_convolution.py", "test_other_processor.py",
)  # fmt: skip
"""Files that take 20 s and more, longest first; before them the one that trains the network which others wait for.

One that is missing here only starts later than it should, at worst as the last of all.
"""


def share(nodeid: str) -> str:
    """What a test may not be parted from: the tests of the group that its name ends with, or else those of its file."""
    grouped = nodeid.rfind("@") > nodeid.rfind("]")
    return nodeid.rpartition("@")[2] if grouped else nodeid.partition("::")[0]


def order(shares: Mapping[str, str]) -> list[str]:
    """Shares in the order in which they are to start.

    Long ones come first. The others of all folders are interleaved: those that wait for emulators run beside those
    that compute.

    Args:
        shares: the path of a file of each.
    """
    sizes = Counter(path.rpartition("/")[0] for path in shares.values())
    seen: Counter[str] = Counter()
    places: dict[str, tuple[int, float]] = {}
    for one, path in shares.items():
        folder, _, name = path.rpartition("/")
        seen[folder] += 1
        long = LONG.index(name) if name in LONG else len(LONG)
        places[one] = long, seen[folder] / sizes[folder]
    return sorted(shares, key=places.__getitem__)


class Scheduling(LoadScopeScheduling):
    """Gives each worker whole shares, the long ones first."""

    _sorted = False

    def _split_scope(self, nodeid: str) -> str:
        return share(nodeid)

    def _assign_work_unit(self, node: WorkerController) -> None:
        if not self._sorted:
            files = {one: next(iter(nodeids)).partition("::")[0] for one, nodeids in self.workqueue.items()}
            for one in order(files):
                self.workqueue.move_to_end(one)
            self._sorted = True
        super()._assign_work_unit(node)
