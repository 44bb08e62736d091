"""What a worker of xdist is given: whole files, the long ones first, none of them twice and none forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
from helpers.sandbox import TESTS
from helpers.schedule import LONG, Scheduling, order, share
from hypothesis import given
from hypothesis import strategies as st

FILES = ("tests/unit/test_a.py", "tests/unit/test_b.py", "tests/emulated/test_c.py", f"tests/emulated/{LONG[1]}")


class Worker:
    """Runs a test as soon as it is told to go on."""

    def __init__(self, name: str, tests: Sequence[str]) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.shutting_down = False
        self.tests = list(tests)
        self.given: list[int] = []

    def send_runtest_some(self, indices: Sequence[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


@pytest.mark.parametrize(
    ("test", "belongs_to"),
    [
        ("tests/unit/test_a.py::test_x", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::test_x[a::b]", "tests/unit/test_a.py"),
        ("tests/unit/test_a.py::test_x[me@here]", "tests/unit/test_a.py"),
        ("tests/hil/test_a.py::test_x[m4f]@m4f", "m4f"),
        ("tests/hil/test_b.py::test_y@m4f", "m4f"),
    ],
)
def test_tests_of_a_file_stay_together_and_so_do_those_of_a_device(test: str, belongs_to: str) -> None:
    assert share(test) == belongs_to


def test_long_files_start_first_and_folders_take_turns() -> None:
    assert order({path: path for path in (*FILES, f"tests/unit/{LONG[0]}")}) == [
        f"tests/unit/{LONG[0]}", FILES[3], FILES[0], FILES[2], FILES[1],
    ]  # fmt: skip


@pytest.mark.parametrize("name", LONG)
def test_long_files_are_there(name: str) -> None:
    assert len(list(TESTS.glob(f"*/{name}"))) == 1


@given(st.lists(st.tuples(st.sampled_from(FILES), st.integers(0, 40)), unique=True, min_size=1), st.integers(1, 4))
def test_every_test_runs_once_and_every_file_in_one_worker(tests: list[tuple[str, int]], workers: int) -> None:
    collected = sorted(f"{path}::test_{number}" for path, number in tests)
    config = SimpleNamespace(option=SimpleNamespace(loadscopereorder=True), getvalue=lambda _: ["popen"] * workers)
    scheduling = Scheduling(config, SimpleNamespace(loadscopesched=lambda *_: None))
    nodes = [Worker(str(number), collected) for number in range(workers)]
    for node in nodes:
        scheduling.add_node(node)
        scheduling.add_node_collection(node, collected)
    scheduling.schedule()
    ran: dict[str, str] = {}
    while not scheduling.tests_finished:
        for node in nodes:
            if node.given:
                index = node.given.pop(0)
                assert collected[index] not in ran
                ran[collected[index]] = node.gateway.id
                scheduling.mark_test_complete(node, index)
    for node in nodes:
        ran |= {collected[index]: node.gateway.id for index in node.given}
    assert sorted(ran) == collected
    assert len({(share(test), node) for test, node in ran.items()}) == len({share(test) for test in collected})
