"""The workload early-exit: the rule, what the methods share, and the images that are hard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostModel
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.fitting import Plan, seeded
from lab.workloads.uncertainty import networks
from lab.workloads.uncertainty.early_exit import CLASSES, Variant, counts, parse
from lab.workloads.uncertainty.exit_rules import entropies, matched_entropy
from lab.workloads.uncertainty.scenes import SHIFTED, asked, digits_task, judged
from lab.workloads.uncertainty.training_runs import tensors, train_converter

STEEP = 4.0
SMALL = "epochs=1,evaluated=20,precision=float32"


def exits(threshold: float) -> networks.SoftmaxExits:
    """Untrained, with logits that spread."""
    torch.manual_seed(1)
    heads = [networks.head(CLASSES) for _ in range(networks.EXITS)]
    for head in heads:
        nn.init.normal_(next(head.parameters()), std=STEEP)
    return networks.SoftmaxExits(networks.stages(), heads, threshold).eval()


def test_the_first_exit_that_is_sure_answers() -> None:
    module, x = exits(0.2), torch.rand(64, 1, 16, 16)
    with torch.no_grad():
        shares = torch.softmax(module.logits(x), 2).numpy()
        found = module(x).numpy()
    sure = shares.max(2) >= 0.2
    sure[:, -1] = True
    first = sure.argmax(1)
    assert len(set(first)) > 1
    np.testing.assert_array_equal(found[:, CLASSES], first)
    np.testing.assert_allclose(found[:, :CLASSES], shares[np.arange(64), first], atol=1e-6)


def test_the_first_exit_of_little_entropy_answers() -> None:
    module, x = exits(2.0), torch.rand(64, 1, 16, 16)
    module.rule = "entropy"
    with torch.no_grad():
        shares = torch.softmax(module.logits(x), 2)
        found = module(x).numpy()
    sure = torch.distributions.Categorical(probs=shares).entropy().numpy() <= 2.0
    sure[:, -1] = True
    first = sure.argmax(1)
    assert len(set(first)) > 1
    np.testing.assert_array_equal(found[:, CLASSES], first)
    np.testing.assert_allclose(found[:, :CLASSES], shares.numpy()[np.arange(64), first], atol=1e-6)


def test_the_entropy_lets_as_many_leave_as_the_confidence_does() -> None:
    generator = np.random.default_rng(3)
    shares = generator.dirichlet(np.full(CLASSES, 0.2), 200)
    wanted = [torch.distributions.Categorical(probs=torch.tensor(row)).entropy().item() for row in shares]
    np.testing.assert_allclose(entropies(shares), wanted, atol=1e-9)
    for confidence in (0.0, 0.3, 0.7, 0.95, 1.0):
        found = matched_entropy(shares, confidence)
        assert (entropies(shares) <= found).sum() == (shares.max(1) >= confidence).sum()
    assert entropies(np.eye(2))[0] == 0


def test_what_an_entropy_is_set_by_is_neither_trained_on_nor_asked() -> None:
    task = digits_task(CLASSES, (80, 20, 0), "")
    assert task.judged is not None
    images, labels = task.judged()
    parts = [{one.tobytes() for one in part} for part in (images, task.training()[0], task.scene.images)]
    assert not parts[0] & (parts[1] | parts[2])
    assert len(images) == len(labels) > 500
    assert (images != judged(CLASSES, (100, 0, 0))[0]).any((1, 2, 3)).sum() == round(len(images) / 5)


def test_the_converter_is_taught_easy_images_of_the_same_class(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[torch.Tensor] = []
    monkeypatch.setattr(
        "lab.workloads.uncertainty.training_runs.fit", lambda network, images, targets, *rest: told.append(targets)
    )
    module, task = exits(0.5), digits_task(CLASSES, (1, 0, 0), "")
    with seeded(1):
        train_converter(networks.Converter(), module, task, Plan(1, 32, 1e-3), functional.mse_loss)
    images, labels = tensors(task)
    known = {one.clamp(0, 1).numpy().tobytes(): n for n, one in enumerate(images)}
    drawn = torch.tensor([known[one.numpy().tobytes()] for one in told[0]])
    assert torch.equal(labels[drawn], labels)
    with torch.no_grad():
        confidence = torch.softmax(module.logits(images)[:, 0], 1).gather(1, labels[:, None])[:, 0]
    for label in range(CLASSES):
        own = labels == label
        assert confidence[drawn[own]].min() >= confidence[own].median()
    assert len(set(drawn.tolist())) > 5 * CLASSES, "not one image for each class"


def test_the_c_leaves_where_pytorch_does_and_bounds_break(tmp_path: Path) -> None:
    prepared = get("early-exit").prepare(cache_dir(), f"{SMALL},threshold=0.4,hard=50")
    samples = np.frombuffer(prepared.job.blob, np.float32).reshape(20, -1)
    found = np.ascontiguousarray(HostModel(prepared.model, tmp_path).run(samples))
    scores = {one.metric: one for one in prepared.check(found.view(np.int8))}
    assert scores["same_exit"].value == scores["agreement"].value == 1
    assert scores["accuracy.hard"].trials == scores["accuracy.easy"].trials == 10
    assert scores["accuracy"].value == scores["accuracy"].reference
    found[:, CLASSES] = (found[:, CLASSES] + 1) % 3
    with pytest.raises(WorkloadError, match=r"left at the reference's exit with 0\.0%"):
        prepared.check(found.view(np.int8))


def test_the_c_leaves_by_entropy_where_pytorch_does(tmp_path: Path) -> None:
    prepared = get("early-exit").prepare(cache_dir(), f"{SMALL},threshold=0.4,hard=50,rule=entropy")
    set_at = {one.metric: one.value for one in prepared.figures}["exit_entropy"]
    assert prepared.parameters["entropy"] == str(set_at)
    samples = np.frombuffer(prepared.job.blob, np.float32).reshape(20, -1)
    found = np.ascontiguousarray(HostModel(prepared.model, tmp_path).run(samples))
    scores = {one.metric: one for one in prepared.check(found.view(np.int8))}
    assert scores["same_exit"].value == 1
    early = found[:, CLASSES] < networks.EXITS - 1
    assert 0 < early.sum() < 20
    spread = entropies(found[:, :CLASSES].astype(np.float64))
    assert (spread[early] <= set_at + 1e-4).all()


def test_every_method_has_the_parts_of_one_training() -> None:
    made = {
        method: get("early-exit").prepare(cache_dir(), f"{SMALL},method={method}")
        for method in ("light", "cbnet")
    }
    macs = {method: one.model.macs for method, one in made.items()}
    assert macs["cbnet"] - macs["light"] == 2 * 16 * 16 * networks.CODE
    assert len({one.job.blob for one in made.values()}) == 1, "all are asked the same images"


@pytest.mark.parametrize("hard", [0, 20, 100])
def test_so_many_images_are_hard(hard: int) -> None:
    scene = asked(CLASSES, counts(Variant(hard=hard, evaluated=50)))
    assert (scene.kinds == SHIFTED).mean() == hard / 100
    assert (scene.labels >= 0).all()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("size=large", "one of ci, paper"),
        ("data=mnist", "has no option 'data'"),
        ("method=vit", "exits, full, light, cbnet"),
        ("threshold=1.5", "method=full is the last one alone"),
        ("hard=101", "0 to 100 per cent"),
        ("rule=margin", "confidence, entropy"),
        ("rule=entropy,entropy=3", "0 to 2.303 nats"),
        ("evaluated=9", "10 to 700"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert parse("") == Variant()
    with pytest.raises(ConfigError) as refused:
        parse(text)
    assert told in str(refused.value)
