"""The workload lgvit: heads and stages against PyTorch's own layers, exits of the C sample by sample, and options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data_folders import write_images
from helpers.toolchain import needs_host_compiler
from torch import nn
from torch.nn import functional

from lab.compiler import binary_constants
from lab.compiler.host import HostModel
from lab.errors import ConfigError, WorkloadError
from lab.workloads import get
from lab.workloads.networks.vit import PreNormBlock
from lab.workloads.uncertainty import lgvit, lgvit_training
from lab.workloads.uncertainty.lgvit_images import normalised
from lab.workloads.uncertainty.lgvit_networks import (
    Backbone,
    Embedding,
    End,
    ExitHead,
    LocalPerception,
    Transformer,
    thinned,
)
from lab.workloads.uncertainty.networks import SoftmaxExits
from lab.workloads.uncertainty.scenes import digits_task

TINY = Transformer(1, 16, 4, 8, 5, 2, ((1, "spatial"), (2, "pointwise"), (3, "every-2nd"), (4, "every-3rd")))
SHORT = replace(TINY, depth=3, exits=((1, "spatial"), (2, "every-2nd")))
EXITS = len(TINY.exits) + 1
SMALL = "epochs=1,evaluated=20,hard=50"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small transformer and few images; what is prepared must not get into the cache that others read."""
    whole = digits_task(10, (10, 10, 0), "")
    images, labels = whole.training()
    task = replace(whole, training=lambda: (images[:128], labels[:128]))
    monkeypatch.setattr(lgvit, "sizes", lambda size: SHORT)
    monkeypatch.setattr(lgvit, "task_of", lambda variant: task)


def untrained(sizes: Transformer = TINY, threshold: float = 0.5) -> SoftmaxExits:
    """With logits that spread, and statistics of batch norm that are not those of a new layer."""
    torch.manual_seed(1)
    made = SoftmaxExits(sizes.parts(), sizes.exit_heads(sizes.exits, 10), threshold)
    for head in made.heads:
        nn.init.normal_(head.classifier.weight)
    for one in made.modules():
        if isinstance(one, nn.BatchNorm2d):
            nn.init.normal_(one.running_mean)
            nn.init.uniform_(one.running_var, 0.5, 2)
    return made.eval()


def copied(target: nn.Module, *sources: nn.Module) -> nn.Module:
    """PyTorch's layer with the weights of ours, in the order of their names there."""
    weights = [one for source in sources for one in source.parameters()]
    with torch.no_grad():
        for own, one in zip(target.parameters(), weights, strict=True):
            own.copy_(one)
    return target.eval()


def block_of_pytorch(block: PreNormBlock) -> nn.Module:
    encoder = nn.TransformerEncoderLayer(
        TINY.width, TINY.heads, 4 * TINY.width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    for own, ours in ((encoder.self_attn, block.attention), (encoder.norm1, block.norm1), (encoder.norm2, block.norm2)):
        copied(own, ours)
    first, _, second = block.feed_forward
    copied(encoder.linear1, first)
    copied(encoder.linear2, second)
    return encoder.eval()


def local(patches: torch.Tensor, layers: nn.Sequential, grid: int) -> torch.Tensor:
    """Convolutions by PyTorch, on a map that is filled patch by patch."""
    x = torch.zeros(len(patches), patches.shape[2], grid, grid)
    for number in range(grid**2):
        x[:, :, number // grid, number % grid] = patches[:, number]
    x = layers(x)
    return torch.stack([x[:, :, number // grid, number % grid] for number in range(grid**2)], 1) + patches


def among(patches: torch.Tensor, attention: nn.Module, places: list[int]) -> torch.Tensor:
    """PyTorch's attention among patches by their places."""
    own = copied(nn.MultiheadAttention(TINY.width, TINY.heads, batch_first=True), attention)
    chosen = patches[:, places]
    found: torch.Tensor = own(chosen, chosen, chosen)[0]
    return found


def test_every_exit_has_the_logits_of_pytorchs_own_layers() -> None:
    network, x = untrained(), torch.rand(3, 1, 16, 16)
    with torch.no_grad():
        first, *blocks = [layer for part in network.parts for layer in part]
        assert isinstance(first, Embedding)
        cut = functional.unfold(x, 4, stride=4).transpose(1, 2)
        patches = functional.linear(cut, first.patches.weight.flatten(1), first.patches.bias)
        tokens = torch.cat([first.token.repeat(3, 1, 1), patches], 1) + first.positions
        wanted = []
        for block, head in zip(blocks, network.heads, strict=True):
            tokens = block_of_pytorch(block)(tokens)
            if isinstance(head, End):
                wanted.append(head.classifier(functional.layer_norm(tokens[:, 0], (8,), *head.norm.parameters())))
                continue
            seen = tokens[:, 1:]
            if isinstance(head.mix, LocalPerception):
                seen = local(seen, head.mix.convolutions, 4)
            else:
                seen = among(seen, head.mix.attention, [0, 2, 8, 10] if head.mix.stride == 2 else [0, 3, 12, 15])
            wanted.append(head.classifier(tokens[:, 0] + seen.mean(1)))
        torch.testing.assert_close(network.logits(x), torch.stack(wanted, 1), atol=1e-5, rtol=1e-4)
    spatial, pointwise = (network.heads[number].mix.convolutions for number in (0, 1))
    assert [one.groups for one in spatial if isinstance(one, nn.Conv2d)] == [1, 8, 1]
    assert [one.kernel_size for one in pointwise if isinstance(one, nn.Conv2d)] == [(1, 1), (1, 1)]


@needs_host_compiler
def test_the_c_leaves_every_sample_where_pytorch_is_sure(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        lgvit, "trained_exits", lambda variant, task, cache: untrained(SHORT, variant.threshold)
    )
    task = lgvit.task_of(lgvit.parse(SMALL))
    with torch.no_grad():
        shares = torch.softmax(untrained(SHORT).logits(torch.from_numpy(task.scene.images)), 2).numpy()
    threshold = round(float(np.median(shares.max(2)[:, :-1])), 5)
    sure = shares.max(2) >= threshold
    sure[:, -1] = True
    first = sure.argmax(1)
    assert len(set(first)) == 3
    monkeypatch.setattr(binary_constants, "LEAST_BYTES", 256)
    prepared = get("lgvit").prepare(tmp_path, f"{SMALL},threshold={threshold}")
    assert prepared.model.binaries, "constants in files come back from the cache"
    samples = np.frombuffer(prepared.job.blob, np.float32).reshape(20, -1)
    found = np.ascontiguousarray(HostModel(prepared.model, tmp_path).run(samples))
    np.testing.assert_array_equal(found[:, 10], first)
    np.testing.assert_allclose(found[:, :10], shares[np.arange(20), first], atol=1e-5)
    scores = {one.metric: one for one in prepared.check(found.view(np.int8))}
    assert scores["same_exit"].value == scores["agreement"].value == 1
    right = shares[np.arange(20), first].argmax(1) == task.scene.labels
    assert scores["accuracy"].value == pytest.approx(right.mean())
    assert scores["accuracy.hard"].trials == 10
    found[:, 10] = (found[:, 10] + 1) % 3
    with pytest.raises(WorkloadError, match=r"left at the reference's exit with 0\.0%"):
        prepared.check(found.view(np.int8))


@needs_host_compiler
def test_in_int8_the_c_is_the_programs_integers_at_every_exit(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lab.workloads.uncertainty.answers.CALIBRATION_IMAGES", 8)
    monkeypatch.setattr("lab.workloads.uncertainty.answers.MIN_AGREEMENT", {"int8": 0.5})
    two = replace(SHORT, depth=2, exits=((1, "every-2nd"),))
    monkeypatch.setattr(lgvit, "sizes", lambda size: two)
    monkeypatch.setattr(lgvit, "trained_exits", lambda variant, task, cache: untrained(two, variant.threshold))
    with torch.no_grad():
        images = torch.from_numpy(lgvit.task_of(lgvit.parse(SMALL)).scene.images)
        middle = float(torch.softmax(untrained(two).logits(images)[:, 0], 1).amax(1).median())
    prepared = get("lgvit").prepare(tmp_path, f"{SMALL},threshold={middle:.5f},precision=int8")
    samples = np.frombuffer(prepared.job.blob, np.int8).reshape(20, -1)
    assert samples.shape[1] == 16 * 16
    found = np.ascontiguousarray(HostModel(prepared.model, tmp_path).run(samples))
    assert len(set(found[:, 10])) > 1
    scores = {one.metric: one.value for one in prepared.check(found.view(np.int8))}
    assert scores["same_exit"] == 1
    assert scores["output_error"] < 1e-6, "integers up to the classifier, whose sums PyTorch takes in another order"


def test_methods_are_ends_of_one_training_and_linear_heads_have_their_own(tiny: None, tmp_path: Path) -> None:
    asked = lgvit.parse(SMALL)
    task = lgvit.task_of(asked)
    whole = lgvit.trained_exits(asked, task, tmp_path)
    x = torch.rand(4, 1, 16, 16)

    def shares(method: str, depth: int = 2) -> torch.Tensor:
        variant = replace(asked, method=method, depth=depth)
        found: torch.Tensor = lgvit.network(variant, task, tmp_path)(x)[:, :10]
        return found

    with torch.no_grad():
        wanted = torch.softmax(whole.logits(x), 2)
        torch.testing.assert_close(shares("full"), wanted[:, -1])
        # DEPTH is that of six blocks, whose first exit is behind the second.
        torch.testing.assert_close(shares("fixed", 3), wanted[:, 1])
    linear = lgvit.network(replace(asked, method="linear"), task, tmp_path)
    assert isinstance(linear, SoftmaxExits)
    assert not list(linear.heads[0].mix.parameters())
    assert not torch.equal(linear.heads[-1].classifier.weight, whole.heads[-1].classifier.weight)


def test_the_second_stage_changes_heads_alone_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    network = untrained()
    x, labels = torch.rand(64, 1, 16, 16), torch.randint(10, (64,))
    learner = lgvit_training.Distilled(network).eval()
    assert len(list(learner.parameters())) == sum(len(list(one.parameters())) for one in network.heads[:-1])
    before = {name: one.clone() for name, one in network.state_dict().items()}
    losses: list[float] = []

    def stage(module: nn.Module, images: torch.Tensor, targets: torch.Tensor, plan: object, seed: int, title: str,
              loss: lgvit_training.Loss) -> float:  # fmt: skip
        optimizer = torch.optim.SGD(module.parameters(), 0.01)
        for _ in range(3):
            found = loss(module(images), targets)
            optimizer.zero_grad()
            found.backward()
            optimizer.step()
            losses.append(float(found.detach()))
        return losses[-1]

    monkeypatch.setattr(lgvit_training, "fit", stage)
    with torch.no_grad():
        wanted = written_out(network, x, labels)
    lgvit_training.train_heads(network, x, labels, lgvit.plan_of(lgvit.Variant()))
    assert losses[0] == pytest.approx(wanted, rel=1e-5)
    assert losses[2] < losses[0]
    changed = {name for name, one in network.state_dict().items() if not torch.equal(one, before[name])}
    assert changed
    assert all(name.startswith("heads.") and not name.startswith(f"heads.{EXITS - 1}.") for name in changed)


def written_out(network: SoftmaxExits, x: torch.Tensor, labels: torch.Tensor) -> float:
    """The loss of the second stage from probabilities, term by term."""
    logits = network.logits(x)
    teacher = torch.softmax(logits[:, -1] / 2, 1)
    total = 0.0
    for number in range(EXITS - 1):
        total += 0.7 * float(functional.cross_entropy(logits[:, number], labels))
        student = torch.softmax(logits[:, number] / 2, 1)
        total += 0.3 * 4 * float((teacher * (teacher / student).log()).sum(1).mean())
    tokens, seen = x, []
    for part, head in zip(network.parts, network.heads, strict=True):
        tokens = part(tokens)
        if isinstance(head, ExitHead):
            seen.append(head.features(tokens))
    for number, stride in enumerate((1, 1, 2, 3)):
        wanted, own = torch.softmax(thinned(tokens[:, 1:], 4, stride), 2), torch.softmax(seen[number], 2)
        total += 0.01 * float((wanted * (wanted / own).log()).sum((1, 2)).mean())
    total += 0.01 * float((seen[0] - seen[1]).square().mean())
    products = [torch.einsum("npi,npj->nij", one, one) for one in seen[2:]]
    return total + 0.01 * float((products[0] - products[1]).square().mean())


# ---- the paper's size ----------------------------------------------------------------------------------------------


def paper(network: str) -> Backbone:
    return lgvit.sizes(lgvit.parse(f"size=paper,data=x,network={network}"))


@pytest.mark.parametrize(
    ("network", "parameters"),
    [("deit-tiny", 5_717_416), ("vit-base", 86_567_656), ("deit-base", 86_567_656), ("swin-base", 87_768_224)],
)
def test_a_networks_parameters_are_as_many_as_timm_has(network: str, parameters: int) -> None:
    with torch.device("meta"):
        made = nn.Sequential(*paper(network).parts(), paper(network).end(1000))
    assert sum(one.numel() for one in made.parameters()) == parameters
    assert {one.eps for one in made.modules() if isinstance(one, nn.LayerNorm)} == {1e-5 if "swin" in network else 1e-6}


def test_the_sizes_have_the_papers_exits() -> None:
    small = lgvit.sizes(lgvit.Variant())
    for network in ("deit-tiny", "vit-base", "deit-base"):
        assert [block for block, _ in paper(network).exits] == [4, 5, 6, 7, 8, 9, 10, 11]
        assert [kind for _, kind in paper(network).exits[::2]] == [kind for _, kind in small.exits]
    assert [block / small.depth for block, _ in small.exits[:1]] == [4 / 12]
    with torch.device("meta"):
        swin = paper("swin-base")
        parts, heads = swin.parts(), swin.exit_heads(swin.exits, 10)
        x, widths = torch.zeros(1, 3, 224, 224), []
        for part, head in zip(parts, heads, strict=True):
            x = part(x)
            widths.append(x.shape[1:])
            assert head(x).shape == (1, 10)
    assert [len(part) for part in parts] == [6, 4, 3, 3, 3, 3, 3, 2, 1], "blocks, patches and what begins a stage"
    assert widths == [(28, 28, 256), *6 * [(14, 14, 512)], *2 * [(7, 7, 1024)]]


def test_a_users_folder_and_weights_are_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = replace(TINY, channels=3, image=32, patch=8)
    monkeypatch.setattr(lgvit, "sizes", lambda size: made)
    monkeypatch.setattr(lgvit, "SIDE", 32)
    monkeypatch.setenv("LAB_DATA", str(tmp_path))
    variant = lgvit.parse("size=paper,data=own,samples=32,evaluated=10,epochs=1")
    write_images(tmp_path, "own", ("a", "b", "c"), each=12)
    with pytest.raises(ConfigError, match="pre-trained networks"):
        lgvit.task_of(variant)
    (tmp_path / "networks").mkdir()
    torch.manual_seed(3)
    theirs = nn.Sequential(*made.parts(), End(made.width, 1000))
    file = tmp_path / "networks" / "deit-tiny.pt"
    torch.save(theirs.state_dict(), file)
    task = lgvit.task_of(variant)
    images, labels = task.training()
    assert (images.shape, task.classes, len(task.scene)) == ((32, 3, 32, 32), 3, 10)
    assert set(labels) == {0, 1, 2}
    assert (task.scene.images.reshape(10, 3, -1).std(2) > 0).all()
    parts, _ = lgvit.pretrained(made, "deit-tiny", task.classes)
    for own, one in zip(parts, theirs, strict=False):
        assert all(torch.equal(own.state_dict()[name], value) for name, value in one.state_dict().items())
    torch.save(nn.Sequential(*made.parts(), End(made.width, 1000)).state_dict(), file)
    other = lgvit.task_of(variant)
    assert other.dataset.digest != task.dataset.digest
    assert other.trained_on != task.trained_on


def test_images_are_taken_as_imagenets_networks_do() -> None:
    grey = np.full((1, 3, 2, 2), 255, np.uint8)
    np.testing.assert_allclose(normalised(grey)[0, :, 0, 0], [2.2489, 2.4286, 2.64], atol=1e-3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("method=exits", "lgvit, linear, full, fixed"),
        ("depth=6", "2 to 5: blocks in front of an exit"),
        ("precision=int4", "int8, float32"),
        ("threshold=2", "method=full is the end alone"),
        ("data=mine", "has no option 'data'"),
        ("size=paper", "data=NAME, a folder below images/"),
        ("size=paper,data=x,depth=3", "4 to 23"),
        ("size=paper,data=x,network=swin-base,precision=int8", "no int8 form of network=swin-base"),
        ("size=paper,data=x,network=vit-large", "deit-tiny, vit-base, deit-base, swin-base"),
        ("size=paper,data=x,hard=20", "asked as they are"),
    ],
)
def test_variants_that_cannot_be_are_refused(text: str, told: str) -> None:
    assert lgvit.parse("") == lgvit.Variant()
    with pytest.raises(ConfigError) as refused:
        lgvit.parse(text)
    assert told in str(refused.value)
