"""CEMA: filter, host and network against their equations and PyTorch's own layers; what rounds count and refuse."""

from __future__ import annotations

import ctypes
import math
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.errors import ConfigError, ProtocolError, WorkloadError
from lab.events import Job, ResultEvent
from lab.paths import cache_dir, project_root
from lab.training import Checkpoint
from lab.workloads import get
from lab.workloads.adaptation import cloud, networks
from lab.workloads.adaptation.cloud import Cloud, ReceivingNetwork, Renormalised
from lab.workloads.adaptation.cloud_rounds import UPLOAD, CloudRounds
from lab.workloads.adaptation.entropy_filter import SETTLE, THRESHOLDS, EntropyFilter, Thresholds
from lab.workloads.adaptation.options import UPLOADS, Options, parse
from lab.workloads.adaptation.reference import softmax_entropy
from lab.workloads.base import FloatArray, Prepared, Score

BATCH = 4
VARIANT = "foundation=small,length=32"
"""As in the test on an emulated board, and so the same preparation; the networks are those of other tests."""
DEFAULTS = Options(method="cema", stream="shifts", length=64)


def source(widths: Sequence[int] = (4, 4, 6, 6), seed: int = 3) -> nn.Sequential:
    """Random weights, statistics, scales and shifts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = networks.source_network(widths).eval()
        for layer in network:
            if isinstance(layer, nn.BatchNorm2d):
                mean, variance = networks.statistics(layer)
                mean.normal_(0, 0.1)
                variance.uniform_(0.5, 1.5)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.1)
    return network


def images(count: int, seed: int = 5) -> FloatArray:
    return np.random.default_rng(seed).random((count, 1, 16, 16), dtype=np.float32)


# ---- the filter ----


class _Settings(ctypes.Structure):
    _fields_ = (
        ("low", ctypes.c_float),
        ("high", ctypes.c_float),
        ("shrink", ctypes.c_float),
        ("settle", ctypes.c_uint32),
    )


class _State(ctypes.Structure):
    _fields_ = (("mean", ctypes.c_float), ("settled_mean", ctypes.c_float), ("seen", ctypes.c_uint32))


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The runner's filter, built for this computer."""
    library = tmp_path_factory.mktemp("filter") / "filter.so"
    runner = project_root() / "firmware" / "runner"
    command = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{runner}",
               str(runner / "entropy_filter.c"), "-o", str(library)]  # fmt: skip
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    found.entropy_filter_takes.restype = ctypes.c_bool
    found.entropy_filter_takes.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float]
    found.entropy_filter_high.restype = ctypes.c_float
    return found


@needs_host_compiler
@given(
    st.lists(st.floats(0, 2.25, width=32), min_size=1, max_size=80),
    st.integers(0, 30),
    st.floats(0.5, 1.5, width=32),
)
@settings(max_examples=60, deadline=None)
def test_the_firmwares_filter_is_the_references(
    firmware: ctypes.CDLL, nats: list[float], settle: int, shrink: float
) -> None:
    chosen = Thresholds(0.1, 1.0, settle, shrink)
    state, told = _State(), _Settings(chosen.low, chosen.high, chosen.shrink, chosen.settle)
    expected = EntropyFilter(chosen)
    for one in nats:
        takes = expected.takes(one)
        found = firmware.entropy_filter_takes(ctypes.byref(state), ctypes.byref(told), one)
        high = firmware.entropy_filter_high(ctypes.byref(state), ctypes.byref(told))
        # A mean that is but rounding has no ratio to speak of.
        if settle == 0 or state.seen < settle or state.settled_mean > 1e-3:
            assert high == pytest.approx(expected.high, rel=1e-4)
            assert found == takes or min(abs(one - chosen.low), abs(one - expected.high)) < 1e-3


def test_samples_between_the_thresholds_are_sent_and_the_upper_one_follows_the_mean() -> None:
    watch = EntropyFilter(Thresholds(0.1, 1.0, settle=4))
    assert [watch.takes(one) for one in (0.099, 0.1, 0.999, 1.0)] == [False, True, True, False]
    assert watch.high == 1.0, "from there on it moves"
    watch.takes(0.0)
    assert watch.high == pytest.approx(4 / 5)
    falling = [watch.high for _ in range(20) if not watch.takes(0.0)]
    assert falling == sorted(falling, reverse=True)


def test_what_the_names_mean() -> None:
    assert set(THRESHOLDS) == set(UPLOADS)
    for name, nats in (("both", (False, True, False)), ("low", (False, True, False)), ("static", (True, True, False)),
                       ("dynamic", (True, True, False)), ("all", (True, True, True))):  # fmt: skip
        watch = EntropyFilter(THRESHOLDS[name])
        # Rounding may leave the entropy of what is certain just below 0.
        assert tuple(watch.takes(one) for one in (-1e-8, 0.5, 1.0)) == nats, name
        for _ in range(SETTLE):
            watch.takes(0.3)
        assert (watch.high == THRESHOLDS[name].high) == (name in ("low", "static", "all"))


def test_a_stream_that_begins_certain_leaves_the_threshold_where_it_is() -> None:
    watch = EntropyFilter(Thresholds(high=1.0, settle=3))
    for one in (0.0, 0.0, 0.0, 0.9):
        watch.takes(one)
    assert watch.high == 1.0, "there is no ratio to a mean of 0"


# ---- the device's network ----


def test_scale_and_shift_stand_for_batch_norm_and_are_what_is_received() -> None:
    network, x = source(), images(3)
    receiving = ReceivingNetwork(network)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(receiving.infer(x), expected, atol=1e-5, rtol=1e-5)
    held = receiving.received()
    assert list(held) == receiving.received_names()
    assert [one.size for one in held.values()] == [4, 4, 4, 4, 6, 6, 6, 6]
    receiving.receive({name: np.zeros_like(one) for name, one in held.items()})
    assert not any(one.any() for one in receiving.received().values())
    assert np.ptp(receiving.infer(x), axis=0).max() == 0, "what is scaled by 0 is the same for every sample"


# ---- the host ----


def test_batch_renormalisation_is_pytorchs_batch_norm_forward_and_backward() -> None:
    norm, x = source()[1], torch.randn(5, 4, 6, 6, generator=torch.Generator().manual_seed(1)) + 0.3
    assert isinstance(norm, nn.BatchNorm2d)
    own = nn.Sequential(cloud.Renormalised(norm))
    layer = own[0]
    assert isinstance(layer, Renormalised)
    mean, variance = (one.clone() for one in networks.statistics(norm))
    first, second = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(2))
    layer.train()
    found = layer(first)
    torch.testing.assert_close(found, norm(x), atol=1e-5, rtol=1e-5)
    torch.autograd.backward([found], [upstream])
    # Behind what is normalised by the batch there is but a factor by channel, which takes no gradient.
    spread = torch.sqrt(x.var((0, 2, 3)) + norm.eps) / torch.sqrt(variance + norm.eps)
    batch = functional.batch_norm(second, None, None, training=True, eps=norm.eps)
    # PyTorch normalises by the variance over n, the method by that over n - 1.
    scaled = batch * (spread * norm.weight * math.sqrt(179 / 180))[:, None, None]
    torch.autograd.backward([scaled], [upstream])
    assert first.grad is not None
    assert second.grad is not None
    torch.testing.assert_close(first.grad, second.grad, atol=1e-5, rtol=1e-4)
    following = nn.BatchNorm2d(4, momentum=cloud.FOLLOWED)
    following.load_state_dict({**norm.state_dict(), "running_mean": mean, "running_var": variance})
    following.train()(x)
    for one, other in zip(networks.statistics(layer), networks.statistics(following), strict=True):
        torch.testing.assert_close(one, other)


def test_the_loss_is_entropy_distance_and_label_each_weighted_by_sureness() -> None:
    generator = torch.Generator().manual_seed(3)
    edge, taught = (2 * torch.randn(6, 10, generator=generator) for _ in range(2))
    shares, known = edge.softmax(1), taught.softmax(1)
    own, other = (torch.special.entr(one).sum(1) for one in (shares, known))
    own_weight, sure = (torch.exp(0.4 * math.log(10) - one) for one in (own, other))
    apart = functional.kl_div(shares.log(), known.log(), reduction="none", log_target=True).sum(1)
    labelled = functional.cross_entropy(edge, known.argmax(1), reduction="none")
    expected = 3 * (own * own_weight).mean() + 3 * (apart * sure).mean() + (labelled * sure).mean()
    torch.testing.assert_close(cloud.distillation(edge, taught), expected)
    torch.testing.assert_close(cloud.entropies(edge), own)


def taken(host: Cloud, batches: int, seed: int = 5) -> list[dict[str, FloatArray] | None]:
    return [host.take(list(images(BATCH, seed + number))) for number in range(batches)]


def test_the_host_learns_with_every_batch_and_the_same_from_the_same() -> None:
    first, second = (taken(Cloud(source(), source((8, 8, 8, 8)), BATCH), 3) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one is not None
        assert other is not None
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    unmoved = ReceivingNetwork(source()).received()
    last = first[-1]
    assert last is not None
    assert last.keys() == unmoved.keys()
    assert all(np.abs(last[name] - unmoved[name]).max() > 1e-4 for name in unmoved)


def test_without_a_rate_statistics_alone_follow_the_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud, "EDGE_RATE", 0.0)
    network, batch = source(), images(BATCH)
    values = Cloud(network, source(), BATCH).take(list(batch))
    assert values is not None
    with torch.no_grad():
        seen = network[0](torch.from_numpy(batch))
        norm = network[1]
        assert isinstance(norm, nn.BatchNorm2d)
        mean, variance = networks.statistics(norm)
        moved = torch.lerp(mean, seen.mean((0, 2, 3)), cloud.FOLLOWED)
        spread = torch.lerp(variance, seen.transpose(0, 1).flatten(1).var(1), cloud.FOLLOWED)
        expected = functional.batch_norm(seen, moved, spread, norm.weight, norm.bias, eps=norm.eps)
        found = seen * torch.from_numpy(values["layers.1.weight"])[:, None, None]
        found += torch.from_numpy(values["layers.1.bias"])[:, None, None]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_foundation_model_adapts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    fixed, adapted = (Cloud(source(), source((8, 8, 8, 8)), BATCH) for _ in range(2))
    monkeypatch.setattr(cloud, "FOUNDATION_RATE", 0.5)
    fast = Cloud(source(), source((8, 8, 8, 8)), BATCH)
    slow, other, apart = (taken(one, 2)[1] for one in (fixed, adapted, fast))
    assert slow is not None
    assert other is not None
    assert apart is not None
    name = "layers.10.bias"
    assert np.array_equal(slow[name], other[name])
    assert not np.array_equal(slow[name], apart[name]), "what it teaches depends on what it has learnt"


def test_too_few_uploads_wait_and_enough_of_them_are_replayed_when_none_come() -> None:
    host = Cloud(source(), source(), BATCH)
    some = list(images(BATCH))
    assert host.take(some[:2]) is None
    assert host.take([]) is None
    assert host.take(some[2:]) is not None, "two rounds make a batch"
    assert host.take([]) is None, "there is too little to be replayed"
    taken(host, cloud.REPLAYED_ALONE - 1)
    replayed, again = host.take([]), host.take([])
    assert replayed is not None
    assert again is not None
    assert any(not np.array_equal(replayed[name], again[name]) for name in replayed)


# ---- the workload ----


@cache
def prepared() -> Prepared:
    return get("cema").prepare(cache_dir(), VARIANT)


@cache
def rounds() -> CloudRounds:
    stream = prepared().stream
    assert stream is not None
    assert isinstance(stream.rounds, CloudRounds)
    return stream.rounds


class SoundDevice:
    """What a device does with the jobs of a round, by PyTorch; keeps what was asked for."""

    def __init__(self) -> None:
        from lab.workloads.adaptation.source import source_network

        self.network = ReceivingNetwork(source_network("small", cache_dir()))
        self.filter = EntropyFilter(THRESHOLDS["both"])
        self.jobs: list[Job] = []

    def results(self, job: Job) -> list[ResultEvent]:
        """The named results of a job."""
        self.jobs.append(job)
        if job.name == "parameters":
            held = {name: value.tobytes() for name, value in self.network.received().items()}
            head = Checkpoint("0" * 16, 0, 1, held).to_bytes()[:40]
            named = [*held.items(), ("lab.checkpoint", head)]
            return [ResultEvent(number, data, name) for number, (name, data) in enumerate(named)]
        if job.name == "restore":
            self._receive(np.frombuffer(job.blobs["checkpoint"][40:], np.float32))
        return self.uploads(job) if job.name == "filter" else []

    def _receive(self, values: FloatArray) -> None:
        held = self.network.received()
        ends = np.cumsum([one.size for one in held.values()])[:-1]
        self.network.receive(dict(zip(held, (one.copy() for one in np.split(values, ends)), strict=True)))

    def uploads(self, job: Job) -> list[ResultEvent]:
        """Samples that the filter takes."""
        samples = np.frombuffer(job.blob, np.float32).reshape(job.count, 1, 16, 16)
        logits = self.network.infer(samples.copy())
        sent = [place for place, one in enumerate(logits) if self.filter.takes(softmax_entropy(one))]
        return [ResultEvent(place, samples[place].tobytes(), UPLOAD) for place in sent]


def driven(device: SoundDevice, job: Job) -> list[Score]:
    """What the rounds return of a job on this device."""
    made = rounds()(job)
    asked = next(made)
    while True:
        try:
            asked = made.send(device.results(asked))
        except StopIteration as end:
            scores: list[Score] = end.value
            return scores


def test_rounds_count_what_goes_over_the_wire_and_the_device_ends_with_what_pytorch_has() -> None:
    made, device = prepared(), SoundDevice()
    scores = {score.metric: score for score in driven(device, made.job)}
    filters = [job for job in device.jobs if job.name == "filter"]
    assert b"".join(job.blob for job in filters) == made.job.blob
    assert [job.parameters["begin"] for job in filters] == [1, *[0] * (len(filters) - 1)]
    assert [job.count for job in filters] == [8] * 16
    received = [job for job in device.jobs if job.name == "restore"]
    values_bytes = 2 * (8 + 16 + 16 + 32) * 4 + 40
    assert 0 < len(rounds().uploaded) < 128
    assert scores["uploaded_share"].value == scores["uploaded_share"].reference == len(rounds().uploaded) / 128
    assert scores["bytes_up"].value == scores["bytes_up"].reference == len(rounds().uploaded) * 1024
    assert scores["bytes_down"].value == scores["bytes_down"].reference == len(received) * values_bytes > 0
    total = scores["bytes_up"].value + scores["bytes_down"].value
    assert scores["bytes_per_sample"].value == pytest.approx(total / 128)
    training, stream = made.model.training, made.stream
    assert training is not None
    assert stream is not None
    held = {name: value.tobytes() for name, value in device.network.received().items()}
    assert list(held) == [one.name for one in training.variables]
    error = next(one for one in stream.check((), held) if one.metric == "variable_error")
    assert error.value < 1e-6
    assert {score.metric: score.value for score in made.check(made.reference_outputs)}["agreement"] == 1


def test_a_part_of_the_stream_is_sent_and_not_judged() -> None:
    job, device = prepared().job, SoundDevice()
    few = replace(job, blob=job.blob[: 12 * 1024], count=12)
    assert driven(device, few) == []
    assert [one.count for one in device.jobs if one.name == "filter"] == [8, 4]


def test_other_uploads_than_pytorchs_are_refused() -> None:
    class Eager(SoundDevice):
        def uploads(self, job: Job) -> list[ResultEvent]:
            sent = super().uploads(job)
            return sent[1:] if sent else sent

    first = rounds().uploaded[0]
    with pytest.raises(WorkloadError, match=rf"PyTorch {len(rounds().uploaded)} of the same .* sample {first} is"):
        driven(Eager(), prepared().job)


def test_a_device_that_does_not_load_what_it_is_sent_is_refused() -> None:
    class Deaf(SoundDevice):
        def _receive(self, values: FloatArray) -> None:
            pass

    with pytest.raises(WorkloadError, match=r"does not hold what it was sent of layers\.1\.weight \(8 of 8\)"):
        driven(Deaf(), prepared().job)
    stream, training = prepared().stream, prepared().model.training
    assert stream is not None
    assert training is not None
    unchanged = {one.name: bytes(one.size_bytes) for one in training.variables}
    with pytest.raises(WorkloadError, match="the device's variables are off PyTorch's by"):
        stream.check((), unchanged)


def test_variables_without_a_head_are_refused() -> None:
    class Headless(SoundDevice):
        def results(self, job: Job) -> list[ResultEvent]:
            return super().results(job)[:-1] if job.name == "parameters" else super().results(job)

    with pytest.raises(ProtocolError, match="without the head of a checkpoint"):
        driven(Headless(), prepared().job)


def test_preparation_needs_the_memory_of_an_inference() -> None:
    made = prepared()
    plain = get("cema").prepare(cache_dir(), f"{VARIANT},method=none")
    assert made.job.name == "filter"
    assert plain.job.name == "infer"
    assert plain.stream is not None
    assert plain.stream.rounds is None
    assert made.model.arena_bytes - plain.model.arena_bytes <= 16, "a scalar, the loss that keeps variables"
    assert made.model.training is not None
    assert made.model.training.variables_bytes == 2 * (8 + 16 + 16 + 32) * 4
    assert any("Uploaded of the stream" in fact for fact in made.facts)


def test_a_stream_of_one_class_and_batches_of_one_are_defined_and_what_is_not_there_is_refused() -> None:
    host = Cloud(source(), source(), 1)
    one = host.take(list(images(1)))
    assert one is not None
    assert all(np.isfinite(value).all() for value in one.values())
    assert parse("cema", "only=3,batch=1", DEFAULTS).only == 3
    for variant, words in (
        ("upload=some", "upload=some is not allowed"),
        ("foundation=huge", "foundation=huge is not allowed"),
        ("size=paper,network=wrn-40-2", "network=wrn-40-2 takes images on another scale than foundation=resnet101"),
        ("size=paper,foundation=reference", "foundation=reference is not allowed"),
        ("batch=0", "batch=0 is not allowed"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse("cema", variant, DEFAULTS)
