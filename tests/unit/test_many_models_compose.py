"""A program of several networks: each answers as it does alone, whatever form its weights are stored in."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler import binary_constants
from lab.compiler.host import TRAP_UNDEFINED, HostModel
from lab.compiler.model import CompiledModel, Int8Array
from lab.compiler.quantized import QuantizedGraph
from lab.workloads.many_models.coding import Layer, learn
from lab.workloads.many_models.compiling import compile_coded
from lab.workloads.many_models.compose import Book, Member, StoredLayer, compose
from lab.workloads.many_models.loading import image_of
from lab.workloads.many_models.storing import layers_of
from lab.workloads.networks.evaluation import logits

SIDE, COUNT = 6, 5
MIDDLE = "1"
"""The layer that is stored in another form."""


@cache
def network(seed: int, classes: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first, middle = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
    behind = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
    return nn.Sequential(first, middle, *behind).eval()


def samples(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((COUNT, 1, SIDE, SIDE)).astype(np.float32)


def compiled(seed: int, classes: int) -> tuple[CompiledModel, QuantizedGraph, tuple[str, ...]]:
    return compile_coded(network(seed, classes), samples(9), {}, f"net{seed}")


def asked(model: CompiledModel, reference: QuantizedGraph) -> tuple[Int8Array, Int8Array]:
    """int8 samples and what they are answered with."""
    inputs = model.input.quantize(samples(4).transpose(0, 2, 3, 1)).reshape(COUNT, -1)
    return inputs, reference.run_integer(inputs).reshape(COUNT, -1)


def members(*, stored: bool) -> tuple[list[Member], list[tuple[Int8Array, Int8Array]]]:
    """Networks of 3 and 2 classes; the middle layer of each is copied to RAM where ``stored``."""
    found, answers = [], []
    for seed, classes in ((1, 3), (2, 2)):
        model, reference, names = compiled(seed, classes)
        packed = layers_of(network(seed, classes), "x")[MIDDLE].in_memory()
        copy = StoredLayer("", packed.tobytes(), packed.size)
        layers = tuple(copy if stored and name == MIDDLE else None for name in names)
        found.append(Member(f"net{seed}", model, layers))
        answers.append(asked(model, reference))
    return found, answers


@pytest.mark.parametrize("stored", [False, True])
def test_each_network_answers_as_it_does_alone(tmp_path: Path, stored: bool) -> None:
    own, answers = members(stored=stored)
    model = compose("both", own, {})
    host = HostModel(model, tmp_path, flags=("-O2", *TRAP_UNDEFINED))
    assert model.output.size == 3
    # The first is ready without having been asked for.
    assert np.array_equal(host.run(answers[0][0]), answers[0][1])
    for number in (1, 0, 1):
        host.load(number)
        found = host.run(answers[number][0])
        wide = np.pad(answers[number][1], ((0, 0), (0, 3 - answers[number][1].shape[1])))
        assert np.array_equal(found, wide)
    assert host.layer_names == ("network",)
    with pytest.raises(ValueError, match="network 2 of a model that holds 2"):
        host.load(2)


@pytest.mark.parametrize("stored", [False, True])
def test_weights_in_files_are_taken_along_under_names_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", 256)
    own, answers = members(stored=stored)
    assert [len(one.model.binaries) for one in own] == [1, 1], "of the middle layers, under one name"
    model = compose("both", own, {}, share=True)
    assert len(model.binaries) == (0 if stored else 2)
    assert not compose("loaded", [replace(one, layers=(), whole=True) for one in own], {}).binaries
    host = HostModel(model, tmp_path)
    for number in (1, 0):
        host.load(number)
        assert np.array_equal(host.run(answers[number][0])[:, : answers[number][1].shape[1]], answers[number][1])
    monkeypatch.undo()
    whole = replace(own[0], layers=(), whole=True)
    assert whole.stored[0] == replace(whole, model=compiled(1, 3)[0]).stored[0], "loaded as a whole it is one image"


def test_a_network_that_is_loaded_as_a_whole_has_nothing_left_in_flash_to_compute_with(tmp_path: Path) -> None:
    own, answers = members(stored=False)
    whole = [replace(one, layers=(), whole=True) for one in own]
    model = compose("loaded", whole, {})
    for one in whole:
        assert not re.search(r"^static const u?int\d+_t", model.sources[f"network_{one.name}.c"], re.MULTILINE)
        image = image_of(one.text)
        assert len(image) == one.region_bytes == one.flash_bytes >= one.model.weights_bytes
        # Of the first layer's four kernels of nine: packed with three zeros for each.
        first = storing_layer(1 if one is whole[0] else 2)
        assert image.startswith(first.in_memory().tobytes())
    host = HostModel(model, tmp_path, flags=("-O2", *TRAP_UNDEFINED))
    for number in (1, 0, 1):
        host.load(number)
        found = host.run(answers[number][0])
        assert np.array_equal(found[:, : answers[number][1].shape[1]], answers[number][1])


def storing_layer(seed: int) -> Layer:
    """The first layer of a network, in int8."""
    return layers_of(network(seed, 3 if seed == 1 else 2), "x")["0"]


def test_an_array_with_other_than_its_values_is_refused() -> None:
    text = "static const int8_t few[3] = {\n    1, -2,\n};\n"
    with pytest.raises(ValueError, match="the array 'few' of 3 holds 2 values"):
        image_of(text)
    assert image_of(text.replace("[3]", "[2]")) == b"\x01\xfe\0\0"


def test_a_coded_layer_keeps_its_scales_and_weights_to_the_bit(tmp_path: Path) -> None:
    layers = layers_of(network(1, 3), "x")
    book = learn("product", [layers[MIDDLE]], 4, 4, 1)["spatial"]
    numbers = book.numbers(layers[MIDDLE])
    coarse = book.decoded(layers[MIDDLE], numbers)
    # With so few entries no channel has a weight of 127 any more, from which the compiler would take its scale.
    assert np.abs(coarse.weights).max() < 127
    module = nn.Sequential(*network(1, 3))
    with torch.no_grad():
        changed = nn.Conv2d(4, 8, 3, padding=1)
        changed.load_state_dict(module[1].state_dict())
        changed.weight.copy_(torch.from_numpy(coarse.real.transpose(0, 3, 1, 2)))
        module[1] = changed
    model, reference, names = compile_coded(module.eval(), samples(9), {MIDDLE: coarse}, "coded")
    stored = StoredLayer("spatial", book.stored(numbers), coarse.weights.size)
    own = Member("coded", model, tuple(stored if name == MIDDLE else None for name in names))
    subspaces, words, width = book.entries.shape
    books = {"spatial": Book(book.in_memory(), subspaces, words, width, book.index_bits)}
    whole = compose("one", [own], books)
    inputs, outputs = asked(model, reference)
    found = HostModel(whole, tmp_path, flags=("-O2", *TRAP_UNDEFINED)).run(inputs)
    assert np.array_equal(found, outputs)
    # What PyTorch has in float32 with these weights, within the roundings of int8.
    real = logits(module, torch.from_numpy(samples(4))).numpy()
    assert np.abs(model.output.dequantize(outputs) - real).max() < 0.1 * np.abs(real).max() + 2 * model.output.scale
    assert whole.weights_bytes == model.weights_bytes - 288 + 72 + 2 * 4 * 4


def test_weights_that_networks_have_in_common_are_stored_once(tmp_path: Path) -> None:
    model, reference, names = compiled(1, 3)
    twins = [Member(name, model, (None,) * len(names)) for name in ("first", "second")]
    apart, together = compose("twins", twins, {}), compose("twins", twins, {}, share=True)
    assert apart.weights_bytes == 2 * model.weights_bytes
    saved = sum(layer.in_memory().size for layer in layers_of(network(1, 3), "x").values())
    assert together.weights_bytes == apart.weights_bytes - saved
    host = HostModel(together, tmp_path)
    inputs, outputs = asked(model, reference)
    for number in (1, 0):
        host.load(number)
        assert np.array_equal(host.run(inputs), outputs)


def test_layers_that_are_not_those_of_the_network_are_refused() -> None:
    model, _, names = compiled(1, 3)
    wrong = StoredLayer("", bytes(4), 4)
    for layers in ((None,), (wrong, *(None,) * (len(names) - 1))):
        with pytest.raises(ValueError, match="network 'net' has the weights"):
            compose("wrong", [Member("net", model, layers)], {})
