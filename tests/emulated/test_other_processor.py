"""A network that is trained here has the same bits on another processor: an emulated one of Intel's."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys

import pytest

QEMU = shutil.which("qemu-x86_64")
# Haswell was the first with AVX2; older QEMU has neither it nor FMA.
PROCESSOR = ("-cpu", "Haswell-noTSX,+avx2,+fma")
FIRST_WITH_AVX2 = (7, 2)
TRAINING = """
import hashlib
import lab
import torch
from torch import nn
from lab.workloads.fitting import Plan, fit, seeded

with seeded(3):
    images, labels = torch.randn(64, 1, 12, 12), torch.arange(64) % 10
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, stride=2), nn.BatchNorm2d(8), nn.Hardswish(),
        nn.Conv2d(8, 24, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(24),
        nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 10),
    )
    fit(network, images, labels, Plan(epochs=3, batch=16, learning_rate=3e-3), 3, "a network")
print(hashlib.sha256(b"".join(one.numpy().tobytes() for one in network.state_dict().values())).hexdigest())
"""


def _why_not() -> str:
    if platform.machine() != "x86_64":
        return "the settings are those of x86-64"
    if QEMU is None:
        return "not installed: qemu-x86_64 (Debian: qemu-user)"
    told = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+)\.(\d+)", told)
    known = found is not None and tuple(map(int, found.groups())) >= FIRST_WITH_AVX2
    return "" if known else f"QEMU 7.2 or newer is needed, found {told.splitlines()[0]}"


def trained(*by: str) -> str:
    done = subprocess.run([*by, sys.executable, "-c", TRAINING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "all there")
def test_another_processor_trains_the_same_network_to_the_bit() -> None:
    assert QEMU is not None
    assert trained(QEMU, *PROCESSOR) == trained()
