"""The workload yono: its tasks, its tuning, what a device must answer, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler.host import HostModel
from lab.compiler.model import CompiledModel
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.cache import AnyArray, Entry
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.many_models import storing, tasks
from lab.workloads.many_models.coding import Codebook, book_of, learn
from lab.workloads.many_models.networks import LAST_LAYER, ManyHeads, network_of
from lab.workloads.many_models.options import TUNING, Variant, parse
from lab.workloads.many_models.produce import produce
from lab.workloads.many_models.yono import Expectation, _prepared, load_times, metered_job
from lab.workloads.networks.evaluation import folded, logits

FIRST_LAYER = "stem.conv"
ONCE = replace(TUNING, epochs=1)
SMALL = "epochs=1,tuning=1,drop=1,evaluated=4"


@cache
def all_tasks() -> tuple[tasks.Task, ...]:
    """Each with so few samples that training takes no time."""
    return tuple(
        replace(one, training=few(one.training), validation=few(one.validation)) for one in tasks.all_tasks()
    )


def few(part: tasks.Part) -> tasks.Part:
    return tasks.Part(part.samples[:64], part.labels[:64])


@cache
def prepared(variant: str = "") -> Prepared:
    return get("yono").prepare(cache_dir(), f"{SMALL},{variant}" if variant else SMALL)


@cache
def untrained() -> nn.Module:
    """A network with norms that do something, folded."""
    torch.manual_seed(1)
    return folded(network_of(all_tasks()[0]))


def books_of(network: nn.Module, words: int) -> dict[str, Codebook]:
    own = [layer for layer in storing.layers_of(network, "digits").values() if layer.codable]
    return dict(learn("product", own, words, 4, 1))


# ---- the tasks ----------------------------------------------------------------------------------------------------


def test_nothing_that_a_device_is_asked_is_trained_on() -> None:
    for one in tasks.all_tasks():
        parts = [{row.tobytes() for row in part.samples} for part in (one.training, one.validation, one.asked)]
        assert len(set.union(*parts)) == sum(map(len, parts)), "no sample is in two parts"
        assert set(one.asked.labels.tolist()) == set(range(one.classes)) == set(one.training.labels.tolist())
        assert one.training.samples.dtype == np.float32


def test_the_same_data_are_made_every_time() -> None:
    first, again = tasks.all_tasks(), tasks.all_tasks()
    assert tasks.digest(first) == tasks.digest(again)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.training.samples, other.training.samples)
        np.testing.assert_array_equal(one.asked.samples, other.asked.samples)


def test_series_are_folded_into_rows() -> None:
    series = np.arange(2 * 3 * 140, dtype=np.float32).reshape(2, 3, 140)
    found = tasks.folded(series)
    assert found.shape == (2, 3, 8, 16)
    assert found[1, 2, 3, 5] == series[1, 2, 3 * 16 + 5]


def test_every_network_has_maps_of_the_same_size_behind_its_first_convolution() -> None:
    for one in all_tasks():
        network = network_of(one).eval()
        maps = network.get_submodule("stem")(torch.from_numpy(one.asked.samples[:2]))
        assert maps.shape == (2, 16, 8, 8)
        assert logits(network, torch.from_numpy(one.asked.samples[:2])).shape == (2, one.classes)


def test_one_batch_may_hold_all_tasks() -> None:
    there = all_tasks()
    torch.manual_seed(2)
    heads = ManyHeads(there).eval()
    longest = max(one.asked.samples[0].size for one in there)
    rows = torch.zeros(6, 1 + longest)
    for place, number in enumerate((2, 0, 1, 1, 0, 2)):
        sample = torch.from_numpy(there[number].asked.samples[place]).flatten()
        rows[place, 0], rows[place, 1 : 1 + len(sample)] = number, sample
    told = logits(heads, rows)
    for place, number in enumerate((2, 0, 1, 1, 0, 2)):
        own = logits(heads.of(number), torch.from_numpy(there[number].asked.samples[place : place + 1]))
        torch.testing.assert_close(told[place : place + 1, : own.shape[1]], own, atol=1e-5, rtol=1e-5)
        assert (told[place, own.shape[1] :] < -10).all()


# ---- algorithm 1 --------------------------------------------------------------------------------------------------


def coded(monkeypatch: pytest.MonkeyPatch, accuracies: Sequence[float], drop: float = 0.02) -> storing.Stored:
    """A network that is found to be so accurate: before, and after each training."""
    told = iter(accuracies)
    monkeypatch.setattr(storing, "accuracy", lambda network, part: next(told))
    network = untrained()
    return storing.code(network, all_tasks()[0], "product", books_of(network, 8), ONCE, drop)


def test_training_again_ends_where_the_network_is_nearly_as_accurate(monkeypatch: pytest.MonkeyPatch) -> None:
    found = coded(monkeypatch, (0.9, 0.881))
    assert found.tuned == (FIRST_LAYER, LAST_LAYER)
    before, after = untrained().state_dict(), found.network.state_dict()
    layers = storing.layers_of(untrained(), "digits")
    for name, one in found.coded.items():
        books = books_of(untrained(), 8)[one.book]
        wanted = books.decoded(layers[name], books.numbers(layers[name]))
        np.testing.assert_array_equal(one.layer.weights, wanted.weights)
        real = after[f"{name}.weight"].permute(0, 2, 3, 1).numpy()
        np.testing.assert_allclose(real, wanted.real, rtol=1e-6)
        assert torch.equal(before[f"{name}.bias"], after[f"{name}.bias"]), "what is frozen keeps its bias"
    for name in found.tuned:
        assert not torch.equal(before[f"{name}.weight"], after[f"{name}.weight"])


def test_the_layer_that_is_off_most_is_trained_next(monkeypatch: pytest.MonkeyPatch) -> None:
    found = coded(monkeypatch, (0.9, 0.8, 0.8, 0.9))
    layers, books = storing.layers_of(untrained(), "digits"), books_of(untrained(), 8)
    middle = [name for name in layers if name not in (FIRST_LAYER, LAST_LAYER)]

    def off(name: str) -> float:
        book = books[book_of("product", layers[name])]
        return float(np.square(layers[name].real - book.decoded(layers[name], book.numbers(layers[name])).real).mean())

    ranked = sorted(middle, key=off, reverse=True)
    assert found.tuned == (FIRST_LAYER, LAST_LAYER, *ranked[:2])
    assert set(found.coded) == set(ranked[2:])


def test_it_ends_where_nothing_is_coded_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    found = coded(monkeypatch, (0.9, 0.1, 0.1, 0.1, 0.1, 0.1))
    assert not found.coded
    assert len(found.tuned) == 6


# ---- the program --------------------------------------------------------------------------------------------------


def made(variant: str, folder: Path) -> tuple[CompiledModel, Mapping[str, AnyArray]]:
    """A program and what it must answer, from few samples."""
    folder.mkdir(exist_ok=True)
    entry = produce(parse(f"{SMALL},words=16,{variant}"), all_tasks(), folder)
    return model_from_json(json.loads(entry.document)["model"]), entry.arrays


@pytest.mark.parametrize("store", ["yono", "kmeans,bits=2", "loaded", "heads"])
def test_the_c_answers_as_the_integer_reference_does(tmp_path: Path, store: str) -> None:
    model, arrays = made(f"store={store}", tmp_path)
    host = HostModel(model, tmp_path)
    for network, sample, expected in zip(arrays["networks"], arrays["samples"], arrays["outputs"], strict=True):
        host.load(int(network))
        assert np.array_equal(host.run(sample[None])[0], expected)


def test_two_preparations_are_equal(tmp_path: Path) -> None:
    (first, arrays), (again, others) = (made("store=plain", tmp_path / name) for name in ("first", "again"))
    assert first.digest == again.digest
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_the_whole_workload_is_told_network_by_network() -> None:
    whole = prepared()
    scores = {score.metric: score for score in whole.check(whole.reference_outputs)}
    assert scores["accuracy"].trials == 12
    own = [scores[f"accuracy.{name}"].value for name in tasks.TASKS]
    assert scores["accuracy"].value == pytest.approx(np.mean(own))


def test_codes_take_the_bytes_that_they_are_said_to() -> None:
    made, figures = prepared(), {one.metric: one.value for one in prepared().figures}
    weights = figures["stored.coded_weights"]
    assert weights <= 3 * 28_160
    books = 2 * 2 * 256 * 4
    # Of what is not coded: constants of requantisation (9 bytes a channel), first and last layers, tuned ones.
    assert made.model.weights_bytes - weights / 4 - books > 0
    assert figures["stored.float32"] / made.model.weights_bytes > 4
    assert figures["load_time.sd"] < figures["load_time.reflash"] < figures["load_time.uart"]


def test_a_byte_that_differs_is_refused() -> None:
    made = prepared()
    wrong = made.reference_outputs.copy()
    wrong[7, 0] ^= 1
    with pytest.raises(WorkloadError, match="1 of 12 outputs differ from the integer reference, first sample 7"):
        made.check(wrong)
    with pytest.raises(WorkloadError, match="of shape"):
        made.check(wrong[:, :4])


def test_zeros_behind_the_classes_of_a_network_are_no_answer() -> None:
    outputs = np.array([[-9, -3, 0, 0], [-9, -3, -128, 5], [1, 2, 3, 4]], np.int8)
    labels, classes = np.array([1, 3, 3]), np.array([2, 4, 4])
    expected = Expectation(outputs, labels, np.array([0, 3, 3]), np.arange(3, dtype=np.uint8), classes)
    scores = {score.metric: score for score in expected.check(outputs)}
    assert (scores["accuracy.digits"].value, scores["accuracy.digits"].reference) == (1, 0)
    assert scores["accuracy"].value == 1
    assert scores["agreement"].value == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("region_bytes", "job", "numbers"),
    [
        ((8, 8, 8), "switch", [0, 1, 2, 0, 1, 2]),
        ((8, 0, 8), "switch", [0, 2, 0, 2]),
        ((0, 8, 0), "infer", []),
        ((0, 0, 0), "infer", []),
    ],
)
def test_a_switch_of_a_pointer_is_not_metered(region_bytes: tuple[int, ...], job: str, numbers: list[int]) -> None:
    samples, networks = np.arange(12, dtype=np.int8).reshape(6, 2), np.tile(np.arange(3, dtype=np.uint8), 2)
    metered = metered_job(samples, networks, region_bytes)
    assert metered.name == job
    assert metered.count == len(metered.blob) // 2
    assert list(metered.blobs.get("networks", b"")) == numbers
    if job == "infer":
        assert metered.blob == bytes([4, 5, 10, 11]), "the network that the stream has left ready"
    else:
        assert [metered.blob[2 * place] // 2 % 3 for place in range(metered.count)] == numbers


def test_networks_whose_layers_were_all_trained_again_switch_by_a_pointer() -> None:
    document = {
        "model": model_to_json(prepared().model), "tasks": list(tasks.TASKS), "tuned": 3 * [["all"]],
        "coded_weights": 0, "region_bytes": [0, 64, 0], "network_bytes": 3 * [1000], "float32_bytes": 12_000,
    }  # fmt: skip
    each = np.zeros(6, np.int64)
    arrays = {
        "samples": np.zeros((6, 2), np.int8), "outputs": np.zeros((6, 2), np.int8), "labels": each, "before": each,
        "networks": np.tile(np.arange(3, dtype=np.uint8), 2), "classes": np.array([2, 2, 2]),
    }  # fmt: skip
    told = _prepared(parse(""), Entry(json.dumps(document), arrays), "digest")
    assert told.stream is not None
    assert (told.job.name, told.stream.metered.name) == ("switch", "infer")
    assert "All weights of digits, beats are int8 in flash" in told.facts[-1]


def test_loading_takes_what_the_medium_takes() -> None:
    found = load_times(31_250)
    assert found["load_time.sd"] == pytest.approx(0.01)
    assert found["load_time.uart"] == pytest.approx(2.7127, rel=1e-4)
    assert found["load_time.reflash"] == pytest.approx(2 * 0.25 + 7813 * 16e-6)


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store=zip", "store=zip is not allowed"),
        ("learnt=0", "learnt=0 is not allowed"),
        ("learnt=4", "learnt=4 is not allowed"),
        ("words=1", "words=1 is not allowed"),
        ("words=257", "words=257 is not allowed"),
        ("bits=3", "bits=3 is not allowed"),
        ("evaluated=0", "evaluated=0 is not allowed"),
        ("samples=9", "of size=paper"),
        ("size=paper,samples=2", "5 to 5000"),
        ("networks=published", "networks=published is not allowed"),
        ("strore=int8", "no option 'strore'"),
    ],
)
def test_what_a_variant_may_not_be(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse(text)


def test_the_variant_says_what_is_coded() -> None:
    assert parse("") == Variant()
    stores = ("yono", "plain", "kmeans", "int8", "copied", "loaded", "heads")
    coded_ = {store: parse(f"store={store}") for store in stores}
    assert [one for one in coded_ if coded_[one].coded] == ["yono", "plain", "kmeans"]
    assert [one for one in coded_ if coded_[one].in_ram] == ["yono", "plain", "kmeans", "copied", "loaded"]
    assert [one for one in coded_ if coded_[one].shared] == ["yono", "plain"]
