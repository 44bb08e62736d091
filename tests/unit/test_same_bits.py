"""What PyTorch is told before it computes, and whom it is not told."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from lab import same_bits
from lab.compiler.square_root import square_root

TOLD = """
import json, os
from lab.child_environment import for_children
from lab.same_bits import SETTINGS
import torch
names = [*SETTINGS, "ANOTHER"]
print(json.dumps([torch.backends.cpu.get_cpu_capability(), {one: os.environ.get(one) for one in names},
                  {one: for_children().get(one) for one in names}]))
"""
needs_avx2 = pytest.mark.skipif(not same_bits._has_avx2(), reason="the settings are those of x86-64 with AVX2")


def told(**more: str) -> tuple[str, dict[str, str | None], dict[str, str | None]]:
    """What a new process computes with, has, and gives to its children."""
    clean = {name: value for name, value in os.environ.items() if name not in same_bits.SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", TOLD], env={**clean, **more}, capture_output=True, text=True, check=True
    )
    capability, own, children = json.loads(done.stdout)
    return capability, own, children


@needs_avx2
def test_the_lab_computes_as_other_processors_do_and_devices_as_fast_as_they_can() -> None:
    capability, own, children = told(ANOTHER="1")
    assert capability == "AVX2"
    assert own == {**same_bits.SETTINGS, "ANOTHER": "1"}
    assert children == {**dict.fromkeys(same_bits.SETTINGS), "ANOTHER": "1"}


@needs_avx2
def test_what_the_user_set_is_kept_for_all() -> None:
    capability, own, children = told(ATEN_CPU_CAPABILITY="default")
    assert capability == "DEFAULT"
    assert own["ATEN_CPU_CAPABILITY"] == children["ATEN_CPU_CAPABILITY"] == "default"


def test_a_processor_without_avx2_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in same_bits.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(same_bits, "_has_avx2", lambda: False)
    same_bits.settle()
    assert not set(same_bits.SETTINGS) & set(os.environ)


def test_square_roots_are_correctly_rounded() -> None:
    x = np.random.default_rng(0).uniform(1e-6, 10, 100_000).astype(np.float32)
    assert np.array_equal(square_root(torch.from_numpy(x)).numpy(), np.sqrt(x))
