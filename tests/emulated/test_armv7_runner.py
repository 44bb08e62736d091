"""The runner for 32-bit Arm, executed: a 64-bit Arm runs it too (kernel: CONFIG_COMPAT). The reference is this host."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from helpers.int8_training import compile_int8
from helpers.toolchain import SAMPLE_BYTES, board_kind, built, entry, needs_host_compiler, tiny_output
from torch import nn
from torch.nn import functional

from lab.build import build
from lab.connection_config import AdbDevice, SshHost
from lab.devices.base import Device, Identity
from lab.devices.connect import connected
from lab.devices.linux import Linux
from lab.devices.machine import EmulatedMachine
from lab.emulator_config import GuestEmulator
from lab.emulators.registry import create_linux
from lab.errors import ToolMissing
from lab.events import Job, ResultEvent
from lab.paths import cache_dir
from lab.training import checkpoint, train
from lab.transports.ssh import open_ssh
from lab.transports.ssh_remote import Ssh

pytestmark = needs_host_compiler

COUNT, CLASSES, RATE = 6, 3, 0.05


@pytest.fixture(scope="module")
def board() -> Iterator[Linux]:
    """An emulated Raspberry Pi as one with a 32-bit system is seen."""
    try:
        built("linux-armv7")
    except ToolMissing as missing:
        pytest.skip(missing.message)
    kind = board_kind("raspberry-pi-4")
    (section,) = kind.emulators
    assert isinstance(section, GuestEmulator)

    def connect(reached: SshHost | AdbDevice) -> Ssh:
        assert isinstance(reached, SshHost)
        return open_ssh(reached)

    machine = EmulatedMachine(lambda: create_linux(kind, section, cache_dir()), connect)
    device = Linux(Identity("pi", "linux-armv7", "emulated", "", frozenset()), machine, ".cache/hil-lab")
    try:
        # What `uname -m` says to programs of 32 bits.
        device._architecture = device.remote.run(("linux32", "uname", "-m")).text
        yield device
    finally:
        device.close()


def test_it_runs_and_says_what_it_is(board: Linux) -> None:
    assert board._architecture == "armv8l"
    hello = board.deploy(built("linux-armv7"))
    assert (hello.board, hello.clock, hello.clock_hz) == ("linux-armv7", "monotonic", 10**9)
    samples = bytes(range(4 * SAMPLE_BYTES))
    outputs = [one.data for one in board.run(Job("infer", samples, 4)) if isinstance(one, ResultEvent)]
    assert outputs == [tiny_output(samples[at : at + SAMPLE_BYTES]) for at in range(0, len(samples), SAMPLE_BYTES)]


class Network(nn.Module):
    """Convolutions, a maximum, a table and a product with a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep, self.head = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.hardswish(self.deep(functional.max_pool2d(functional.relu(self.stem(x)), 2)))
        y: torch.Tensor = self.head(x.mean((2, 3)))
        return y


def test_it_trains_the_bits_of_the_host(board: Linux) -> None:
    """Integers, and what stays float32: neither processor fuses multiply and add."""
    torch.manual_seed(1)
    data = torch.randn(COUNT, 1, 12, 12)
    model = compile_int8(Network().eval(), data).compiled
    samples = model.input.quantize(data.permute(0, 2, 3, 1).contiguous().numpy())
    labels = (np.arange(COUNT) % CLASSES).astype(np.int32)

    def trained(device: Device, image: str) -> tuple[list[float], dict[str, bytes]]:
        device.deploy(build(model, image, cache=cache_dir()))
        result = train(device, samples, labels, epochs=2, learning_rate=RATE, seed=5)
        return list(result.losses), dict(checkpoint(device).variables)

    with connected(entry("host"), cache_dir()) as host:
        losses, variables = trained(host, "host")
    assert trained(board, "linux-armv7") == (losses, variables)
    assert len(losses) == 2 * COUNT
    assert losses[0] != losses[COUNT], "it learned"
