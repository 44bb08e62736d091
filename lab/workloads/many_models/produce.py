"""What the host makes of a variant: networks, codes, the program, and what it must answer. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lab import progress
from lab.workloads import cache as cached
from lab.workloads.classification import model_to_json
from lab.workloads.data import corruptions, digits, made_series
from lab.workloads.fitting import seeded
from lab.workloads.many_models import coding, tasks
from lab.workloads.many_models.coding import Codebook, Coder, Layer
from lab.workloads.many_models.compiling import compile_coded
from lab.workloads.many_models.compose import Book, Member, StoredLayer, compose
from lab.workloads.many_models.networks import ManyHeads, network_of
from lab.workloads.many_models.options import PLAN, TUNING, Variant
from lab.workloads.many_models.storing import Stored, code, ends_of, layers_of, train_all, train_heads
from lab.workloads.networks import blocks, ds_cnn, lenet5, resnet
from lab.workloads.networks.evaluation import folded, logits
from lab.workloads.trained import trained

CALIBRATION_SAMPLES = 64
_HERE = Path(__file__).parent
PUBLISHED_IN = (Path(ds_cnn.__file__), Path(lenet5.__file__), Path(resnet.__file__))
TRAINED_BY = (
    *(_HERE / name for name in ("networks.py", "storing.py", "tasks.py", "own_tasks.py")), *PUBLISHED_IN,
    Path(corruptions.__file__), Path(digits.__file__), Path(made_series.__file__), Path(blocks.__file__),
)
"""Files that what a trained network is depends on."""


@dataclass(frozen=True)
class Answers:
    """What one network must answer: int8 samples, int8 outputs of the integer reference, classes in float32."""

    samples: coding.Int8Array
    outputs: coding.Int8Array
    labels: tasks.IntArray
    before: tasks.IntArray


def networks(variant: Variant, there: Sequence[tasks.Task], cache: Path) -> list[nn.Module]:
    """The trained networks, batch norm folded; those of one network with many heads where that is asked for.

    Raises:
        ConfigError: the cache cannot be written, or a user's own network cannot be used.
    """
    if variant.networks == "own":
        return [network_of(one) for one in there]
    plan = replace(PLAN, epochs=variant.epochs)
    keyed = {"plan": json.dumps(asdict(plan)), "data": tasks.digest(tuple(there))}
    with seeded(tasks.SEED):
        if variant.store == "heads":
            heads = ManyHeads(there)
            trained(heads, cache, "many-models", {"network": "heads", **keyed}, TRAINED_BY,
                    lambda: train_heads(heads, there, plan))  # fmt: skip
            return [folded(heads.of(number)) for number in range(len(there))]
        own = nn.ModuleList([network_of(one) for one in there])
        trained(own, cache, "many-models", {"network": "own", **keyed}, TRAINED_BY,
                lambda: train_all(list(own), there, plan))  # fmt: skip
    return [folded(one) for one in own]


def produce(variant: Variant, there: Sequence[tasks.Task], cache: Path) -> cached.Entry:
    """The program of a variant, and what each of its networks must answer."""
    whole = networks(variant, there, cache)
    with seeded(tasks.SEED), progress.step(f"yono: storing {len(there)} networks", quiet_below_s=2.0):
        books, stored = _stored(variant, there, whole)
        members, answers = [], []
        for task, before, one in zip(there, whole, stored, strict=True):
            member, answer = _member(variant, task, before, one, books)
            members.append(member)
            answers.append(answer)
    used = {coded.book for one in stored for coded in one.coded.values()}
    on_device = {name: _book(book) for name, book in books.items() if name in used}
    model = compose(f"many_models_{variant.store}", members, on_device, share=variant.store == "heads")
    document = {
        "model": model_to_json(model),
        "tasks": [one.name for one in there],
        "tuned": [list(one.tuned) for one in stored],
        "coded_weights": sum(coded.layer.weights.size for one in stored for coded in one.coded.values()),
        "region_bytes": [one.region_bytes for one in members],
        "network_bytes": [one.model.weights_bytes for one in members],
        "float32_bytes": sum(4 * parameter.numel() for one in whole for parameter in one.parameters()),
    }
    return cached.Entry(json.dumps(document), _arrays(answers))


def _stored(
    variant: Variant, there: Sequence[tasks.Task], whole: Sequence[nn.Module]
) -> tuple[Mapping[str, Codebook], list[Stored]]:
    """The codebooks, and the networks around them."""
    if not variant.coded:
        return {}, [Stored(one, {}, ()) for one in whole]
    coder: Coder = "product" if variant.shared else "kmeans"
    tuning = None if variant.store == "plain" else replace(TUNING, epochs=variant.tuning)
    known = len(there) if coder == "kmeans" else variant.learnt
    layers: list[Layer] = []
    for network, task in zip(whole[:known], there, strict=False):
        kept = () if tuning is None else ends_of(network)
        own = layers_of(network, task.name).items()
        layers += [layer for name, layer in own if layer.codable and name not in kept]
    books = coding.learn(coder, layers, variant.words, variant.bits, tasks.SEED)
    return books, [
        code(network, task, coder, books, tuning, variant.drop)
        for network, task in zip(whole, there, strict=True)
    ]


def _member(
    variant: Variant, task: tasks.Task, before: nn.Module, one: Stored, books: Mapping[str, Codebook]
) -> tuple[Member, Answers]:
    """A network's part of the program, and what it must answer; the answers of ``before`` stand beside."""
    coded = {name: each.layer for name, each in one.coded.items()}
    ranges = task.training.samples[:: max(1, len(task.training) // CALIBRATION_SAMPLES)][:CALIBRATION_SAMPLES]
    model, reference, names = compile_coded(one.network, ranges, coded, f"model_{task.name}")
    asked = task.asked.samples[: variant.evaluated]
    samples = model.input.quantize(np.ascontiguousarray(asked.transpose(0, 2, 3, 1))).reshape(len(asked), -1)
    outputs = reference.run_integer(samples).reshape(len(asked), -1)
    told = logits(before, torch.from_numpy(asked)).argmax(1).numpy()
    layers: list[StoredLayer | None] = [None] * len(names)
    whole = layers_of(one.network, task.name)
    for number, name in enumerate(names):
        if name in one.coded:
            each = one.coded[name]
            layers[number] = StoredLayer(each.book, books[each.book].stored(each.numbers), each.layer.in_memory().size)
        elif variant.store == "copied" and name in whole and name not in ends_of(one.network):
            packed = whole[name].in_memory()
            layers[number] = StoredLayer("", packed.tobytes(), packed.size)
    answers = Answers(samples, outputs, task.asked.labels[: len(asked)], told)
    if variant.store == "loaded":
        return Member(task.name, model, (), whole=True), answers
    return Member(task.name, model, tuple(layers)), answers


def _book(book: Codebook) -> Book:
    subspaces, words, width = book.entries.shape
    return Book(book.in_memory(), subspaces, words, width, book.index_bits)


def _arrays(answers: Sequence[Answers]) -> dict[str, cached.AnyArray]:
    """Samples of the networks in turn, padded to the longest, and what is expected of each."""
    count, many = len(answers[0].samples), len(answers)
    width_in = max(one.samples.shape[1] for one in answers)
    width_out = max(one.outputs.shape[1] for one in answers)
    samples, outputs = np.zeros((count, many, width_in), np.int8), np.zeros((count, many, width_out), np.int8)
    for number, one in enumerate(answers):
        samples[:, number, : one.samples.shape[1]] = one.samples
        outputs[:, number, : one.outputs.shape[1]] = one.outputs
    return {
        "samples": samples.reshape(count * many, -1),
        "outputs": outputs.reshape(count * many, -1),
        "labels": np.stack([one.labels for one in answers], 1).reshape(-1),
        "before": np.stack([one.before for one in answers], 1).reshape(-1),
        "networks": np.tile(np.arange(many, dtype=np.uint8), count),
        "classes": np.array([one.outputs.shape[1] for one in answers], np.int64),
    }
