"""``network=vit`` of the continual workloads: the transformer, the learner behind it, and what may be rounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.learner_runs import losses_of
from torch import nn

from lab.compiler.host import HostTraining
from lab.errors import WorkloadError
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.base import Prepared
from lab.workloads.continual.kept import Kept
from lab.workloads.continual.learner_plan import ENDS, LABELS, POOL, STORE, WEIGHT
from lab.workloads.continual.networks import CI_WIDTHS, Gated, extractor, widths_of
from lab.workloads.continual.options import Base, parse
from lab.workloads.continual.vit import DEPTH, HEADS, LATENT_PER_WIDTH, PatchFeatures, patch_side
from lab.workloads.networks.vit import PreNormBlock

SMALL = "network=vit,classes=3,shots=4,questions=4,meta=2,dimension=8"
LATENT = LATENT_PER_WIDTH * CI_WIDTHS.channels


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return get("metacl-bench").prepare(cache_dir(), SMALL)


def torchs_own(network: PatchFeatures, samples: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    """The same by PyTorch's encoder, from patches that are cut out by hand."""
    width = network.norm.normalized_shape[0]
    high, wide = network.patches.kernel_size
    columns = nn.functional.unfold(samples, (high, wide), stride=(high, wide)).transpose(1, 2)
    weight, bias = network.patches.weight.flatten(1), network.patches.bias
    tokens = nn.functional.linear(columns, weight, bias) + network.positions
    for block in network.blocks:
        assert isinstance(block, PreNormBlock)
        own = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        theirs = [*own.self_attn.parameters(), *own.norm1.parameters(), *own.norm2.parameters(),
                  *own.linear1.parameters(), *own.linear2.parameters()]  # fmt: skip
        ours = [*block.attention.parameters(), *block.norm1.parameters(), *block.norm2.parameters(),
                *block.feed_forward.parameters()]  # fmt: skip
        with torch.no_grad():
            for one, other in zip(theirs, ours, strict=True):
                one.copy_(other)
        tokens = own.eval()(tokens)
    return torch.relu(network.widen(network.norm(tokens).mean(1)))


@pytest.mark.parametrize("shape", [(1, 24, 24), (1, 49, 10), (3, 32, 32)])
def test_the_transformer_is_pytorchs(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    network = PatchFeatures(shape, 8, 12).eval()
    samples = torch.randn(3, *shape)
    with torch.no_grad():
        made = network(samples)
        assert torch.allclose(made, torchs_own(network, samples), atol=1e-5)
    assert made.shape == (3, 12)
    assert float(made.min()) == 0, "rectified"
    assert len(network.blocks) == DEPTH


def test_patches_divide_the_sides() -> None:
    assert [patch_side(one) for one in (24, 49, 10, 32, 84, 7, 1)] == [4, 7, 2, 4, 14, 1, 1]
    assert patch_side(157) == 26, "a prime: 6 patches, and one frame is left over"


@pytest.mark.parametrize("base", ["pretrained", "oml", "anml"])
def test_every_extractor_yields_a_vector_that_is_nowhere_below_zero(base: Base) -> None:
    torch.manual_seed(2)
    samples = torch.randn(5, 1, 24, 24)
    network = extractor(base, "vit", (1, 24, 24)).eval()
    with torch.no_grad():
        made = network(samples)
        assert made.shape == (5, LATENT)
        assert float(made.min()) >= 0
        assert isinstance(network, Gated) == (base == "anml")
        if isinstance(network, Gated):
            gate = network.gate(samples)
            assert 0 < float(gate.min()) < float(gate.max()) < 1
            assert torch.equal(made, network.features(samples) * gate)
        assert extractor(base, "vit", (1, 24, 24), projected=7).eval()(samples).shape == (5, 7)


def test_the_c_comes_to_pytorchs_latents_classifier_and_answers(prepared: Prepared, tmp_path: Path) -> None:
    assert prepared.training is not None
    assert prepared.model.training is not None
    assert prepared.model.training.precision == "float32"
    assert prepared.model.layers[0].operator == "float32 network"
    host = HostTraining(prepared.model, tmp_path)
    losses = losses_of(prepared, host)
    raw = host.raw_variables()
    scores = {one.metric: one for one in prepared.training.check(losses, raw)}
    assert scores["update_error"].value < 1e-3
    assert scores["replay.unlike"].value <= 1
    assert scores["replay.reduction"].value == pytest.approx(scores["replay.reduction"].reference, rel=0.1)
    questions = np.frombuffer(prepared.job.blob, np.int8).reshape(prepared.job.count, -1)
    answers = {one.metric: one.value for one in prepared.check(host.run(questions).view(np.int8))}
    assert answers["agreement"] == 1
    assert "computes in float32" in prepared.facts[-1]
    figures = {one.metric: one.value for one in prepared.figures}
    assert figures["memory.m1"] == LATENT
    with pytest.raises(WorkloadError, match=r"off PyTorch's by .* at most 0.01 is allowed"):
        prepared.training.check(losses, {**raw, WEIGHT: bytes(len(raw[WEIGHT]))})


def kept(rounded: bool) -> tuple[Kept, dict[str, bytes]]:
    """Three items of two, three and two bytes, and a fourth without room."""
    ends = np.array([2, 5, 7], np.int32)
    there = Kept(b"abcdefg", ends, np.array([[True, True], [True, False]]), 4, rounded)
    store = np.array([3, 7, 1], "<i4").tobytes()
    return there, {STORE: store, POOL: b"abcdefg?", ENDS: ends.astype("<i4").tobytes(), LABELS: bytes([0, 0, 1, 9])}


def test_an_item_may_be_rounded_the_other_way_and_no_more() -> None:
    there, raw = kept(rounded=True)
    assert {one.metric: one.value for one in there.check(raw)} == {
        "replay.bytes": 7 + 15, "replay.dropped": 1, "replay.largest": 3, "replay.reduction": 48 / 22,
        "replay.unlike": 0,
    }  # fmt: skip
    # A value more that is not zero makes an item longer, and moves those behind it.
    ends = np.array([2, 6, 8], "<i4").tobytes()
    longer = {**raw, STORE: np.array([3, 8, 1], "<i4").tobytes(), POOL: b"abcdXefg", ENDS: ends}
    scores = {one.metric: one for one in there.check(longer)}
    assert scores["replay.unlike"].value == 1
    assert (scores["replay.bytes"].value, scores["replay.bytes"].reference) == (23, 22)
    with pytest.raises(WorkloadError, match="2 of the 3 items of the store are not those of the reference"):
        there.check({**longer, POOL: b"aXcdXefg"})
    with pytest.raises(WorkloadError, match="in its labels"):
        there.check({**raw, LABELS: bytes([0, 1, 1])})
    with pytest.raises(WorkloadError, match="holds 2 items in 5 bytes and has dropped 2; the reference holds 3 in 7"):
        there.check({**raw, STORE: np.array([2, 5, 2], "<i4").tobytes()})


def test_what_an_int8_extractor_yields_is_kept_to_the_bit() -> None:
    there, raw = kept(rounded=False)
    assert "replay.unlike" not in {one.metric for one in there.check(raw)}
    assert there.check({}) == []
    with pytest.raises(WorkloadError, match="first at byte 3"):
        there.check({**raw, POOL: b"abcXefg?"})
    with pytest.raises(WorkloadError, match="in where its items end"):
        there.check({**raw, ENDS: np.array([2, 4, 7], "<i4").tobytes()})


def test_only_a_transformer_extracts_in_float32() -> None:
    assert parse("metacl-bench", "network=vit").float_extractor
    assert not parse("metacl-bench", "network=ds-cnn").float_extractor
    assert parse("metacl-bench", "size=paper,network=vit").float_extractor
    assert not parse("metacl-bench", "size=paper").float_extractor


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 157, 64)])
def test_at_the_papers_size_it_is_vit_ti(shape: tuple[int, int, int]) -> None:
    """Its blocks' parameters in closed form: 5.3 of the 5.7 M of Touvron et al., table 1, which count 1,000 classes and
    patches of 16×16 of an image of 224×224."""
    with torch.device("meta"):
        network = extractor("oml", "vit", shape, widths_of("paper", 1.0))
        assert network(torch.zeros(2, *shape)).shape == (2, LATENT_PER_WIDTH * 192)
    assert isinstance(network, PatchFeatures)
    blocks = sum(one.numel() for one in network.blocks.parameters())
    assert blocks == 12 * (12 * 192**2 + 13 * 192)
    assert 5.3e6 < blocks < 5.4e6
    small = extractor("oml", "vit", (3, 12, 12), widths_of("paper", 0.05)).eval()
    assert isinstance(small, PatchFeatures)
    samples = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        assert torch.allclose(small(samples), torchs_own(small, samples, heads=3), atol=1e-5)
