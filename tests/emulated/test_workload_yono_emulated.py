"""yono on devices: every switch is decoded and measured there; what does not fit is refused before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import entry, needs_qemu
from torch import nn

from lab.build import build
from lab.comparison import Sizes, run_on
from lab.compiler.model import CompiledModel
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import ProtocolError
from lab.events import Job, RegionEvent, ResultEvent
from lab.inventory import load_bench
from lab.paths import cache_dir, config_dir
from lab.workloads.many_models.compiling import compile_coded
from lab.workloads.many_models.compose import Member, StoredLayer, compose
from lab.workloads.many_models.storing import layers_of
from lab.workloads.many_models.yono import Yono
from measurements.store import Store

pytestmark = needs_qemu

INPUTS = 8


class Beside(Yono):
    """The method beside the copies."""

    baselines: tuple[str, ...] = ("store=copied",)


def test_networks_are_decoded_on_the_device_and_their_switches_measured(tmp_path: Path) -> None:
    found_entry = entry("m4f")
    variant = "epochs=1,tuning=1,drop=1,evaluated=4"
    with Store(tmp_path / "store") as store, connected(found_entry, cache_dir()) as device:
        found = run_on(found_entry, device, Beside(), variant, store, "s", Sizes(), cache_dir())
    method, copied = found.method, found.baselines["store=copied"]
    # Outputs are equal to those of the host's integer reference, to the bit, or check() would have refused them.
    assert method.record("instructions", "switch").n == method.record("instructions").n == 12
    # Two weights an instruction from the codebook, at least, and eight from a copy.
    assert method.median("instructions", "switch") < 28_160 * 3
    assert copied.median("instructions", "switch") < method.median("instructions", "switch")
    assert method.median("energy", "switch") < method.median("energy", "inference")
    assert method.median("flash.weights", "run") < copied.median("flash.weights", "run") / 2
    assert method.median("peak_ram.variables", "run") == pytest.approx(28_160, abs=64)
    passes = [sum(method.record("instructions", region).raw) for region in ("switch", "inference")]
    assert method.median("instructions_per_sample", "run") == pytest.approx(sum(passes) / 12)
    assert method.median("switch_share", "run") == pytest.approx(passes[0] / sum(passes))


@cache
def pair(*, whole: bool = False) -> tuple[CompiledModel, list[np.ndarray[tuple[int, ...], np.dtype[np.int8]]]]:
    """Two linear networks in one program, both copied to RAM or read as a whole, and what each answers to ones."""
    members, answers = [], []
    for number in range(2):
        torch.manual_seed(number)
        network = nn.Sequential(nn.Linear(INPUTS, 4)).eval()
        model, reference, _ = compile_coded(network, torch.randn(16, INPUTS).numpy(), {}, f"linear{number}")
        packed = layers_of(network, "x")["0"].in_memory()
        layers = (StoredLayer("", packed.tobytes(), packed.size),)
        members.append(Member(f"linear{number}", model, () if whole else layers, whole))
        answers.append(reference.run_integer(np.ones((1, INPUTS), np.int8))[0])
    return compose("pair", members, {}), answers


def asked(order: list[int]) -> Job:
    return Job("switch", bytes([1] * INPUTS * len(order)), len(order), warmup=0, blobs={"networks": bytes(order)})


@contextmanager
def running(model: CompiledModel, name: str = "host", bench: str = "emulated.yaml") -> Iterator[Device]:
    found = load_bench(config_dir() / bench).devices[name]
    with connected(found, cache_dir()) as device:
        device.deploy(build(model, found.board.kind, cache=cache_dir()))
        yield device


def test_a_network_is_made_ready_only_where_another_was() -> None:
    # Read from a file, which the first pass makes.
    model, answers = pair(whole=True)
    with running(model) as device:
        for _ in range(2):
            events = list(device.run(asked([1, 1, 0, 0, 1])))
            switched = [one.index for one in events if isinstance(one, RegionEvent) and one.region == "switch"]
            assert switched == [0, 2, 4]
            told = [one.data for one in events if isinstance(one, ResultEvent)]
            assert told == [answers[number].tobytes() for number in (1, 1, 0, 0, 1)]


def test_a_network_is_read_as_a_whole_from_an_sd_card() -> None:
    model, answers = pair(whole=True)
    with running(model, "lm3s6965", "emulators.yaml") as device:
        # The second pass reads again what the first has put onto the card.
        for _ in range(2):
            events = list(device.run(asked([1, 0, 1, 0])))
            told = [one.data for one in events if isinstance(one, ResultEvent)]
            assert told == [answers[number].tobytes() for number in (1, 0, 1, 0)]
    switches = [one.end - one.begin for one in events if isinstance(one, RegionEvent) and one.region == "switch"]
    # A block of 512 bytes and its check, each byte sent and awaited: mapped flash takes an instruction for two.
    assert min(switches) > 4 * 514


def test_what_does_not_fit_is_refused_before_anything_runs() -> None:
    model, _ = pair()
    job = asked([0, 1, 1])
    refused = [
        (replace(job, blobs={}), "networks: the blob does not name a network for each sample"),
        (replace(job, blobs={"networks": bytes([0, 1])}), "networks: the blob does not name a network for each sample"),
        (replace(job, blobs={"networks": bytes([0, 1, 2])}), "sample 2 is for network 2; the model holds 2"),
        (replace(job, blob=job.blob[:-1]), "samples: the blob does not hold exactly so many samples"),
        (replace(job, warmup=1), "switch: samples go by once and in order"),
        (replace(job, repeats=2), "switch: samples go by once and in order"),
    ]
    with running(model) as device:
        for wrong, words in refused:
            with pytest.raises(ProtocolError, match=words):
                list(device.run(wrong))
        assert sum(isinstance(one, ResultEvent) for one in device.run(job)) == 3


def test_a_model_of_one_network_has_nothing_to_switch() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(INPUTS, 4)).eval()
    model, _, _ = compile_coded(module, torch.randn(16, INPUTS).numpy(), {}, "alone")
    with running(model) as device, pytest.raises(ProtocolError, match="the model in this image holds one network"):
        list(device.run(asked([0])))
