"""What the Python payload says where PyTorch is refused memory, by PyTorch's own words."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lab.devices.payload_runner import Line, Program, Runner


def more_than_there_is(_: object) -> None:
    torch.empty(1 << 60, dtype=torch.uint8)


def misfit(_: object) -> None:
    torch.ones(2, 3) @ torch.ones(2, 3)


def out_of_objects(_: object) -> None:
    raise MemoryError


@pytest.mark.parametrize(
    ("job", "code", "words"),
    [
        (more_than_there_is, "overflow", "tried to allocate 1152921504606846976 bytes"),
        (out_of_objects, "overflow", "out of memory"),
        (misfit, "crash", "cannot be multiplied"),
    ],
)
def test_memory_that_is_refused_is_no_crash(job: Callable[[object], None], code: str, words: str) -> None:
    sent: list[tuple[str, dict[str, Any]]] = []
    line = SimpleNamespace(send=lambda kind, **said: sent.append((kind, said)), events=0, results=0)
    runner = Runner(cast(Program, SimpleNamespace(torch=torch, forget=None)), cast(Line, line), "build")
    runner._jobs["job"] = job
    runner._run({"j": "job"})
    ((kind, said),) = sent
    assert (kind, said["c"], said["p"]) == ("error", code, "python")
    assert words in said["m"]
