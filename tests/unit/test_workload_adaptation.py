"""Test-time adaptation: the methods against their equations, the detector in C against Python, and what is refused."""

from __future__ import annotations

import ctypes
import subprocess
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.toolchain import needs_host_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lab.compiler.host import HostModel
from lab.errors import ConfigError, WorkloadError
from lab.paths import cache_dir, project_root
from lab.workloads import get
from lab.workloads.adaptation import networks, reference, source
from lab.workloads.adaptation.options import Detector, Options, parse
from lab.workloads.base import FloatArray, Prepared, Score
from lab.workloads.data import corruptions
from lab.workloads.data.corruptions import CORRUPTIONS

VARIANT = "length=80"
"""A short stream; the test on emulated boards has the same, and so the same preparation."""
DEFAULTS = Options(method="od", stream="shifts", length=64)


@cache
def small_network() -> nn.Sequential:
    """Random weights, statistics of random images."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = networks.source_network((4, 6, 6, 8))
        network.train()
        for _ in range(40):
            network(torch.rand(32, 1, 16, 16))
    return network.eval()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


# ---- options ----


def test_options_are_read_and_what_is_wrong_is_named() -> None:
    assert parse("od-tta", "", DEFAULTS) == DEFAULTS
    assert parse("od-tta", "method=tent,batch=4,only=3", DEFAULTS) == replace(DEFAULTS, method="tent", batch=4, only=3)
    for variant, words in (
        ("metod=od", "no option 'metod'"),
        ("batch=two", "batch=two is no int"),
        ("method=sgd", "method=sgd is not allowed"),
        ("stream=wet", "stream=wet is not allowed"),
        ("states=0", "states=0 is not allowed"),
        ("batch=0", "batch=0 is not allowed"),
        ("affine=2", "affine=2.0 is not allowed"),
        ("only=10", "only=10 is not allowed"),
        ("network=large", "network=large is not allowed"),
        ("size=huge", "size=huge is not allowed"),
        ("network=resnet18", "network=resnet18 is not allowed"),
        ("size=paper,method=sgd", "method=sgd is not allowed"),
        ("size=paper,network=small", "network=small is not allowed"),
        ("shifts=fog+snow", r"shifts=fog\+snow is not allowed"),
        ("shifts=", "shifts= is not allowed"),
        ("size=paper,shifts=impulse", "shifts=impulse is not allowed"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse("od-tta", variant, DEFAULTS)
    with pytest.raises(ConfigError) as empty:
        parse("od-tta", "states=0", DEFAULTS)
    assert "the clean source state at least" in str(empty.value)


# ---- streams ----


def test_a_stream_shifts_and_returns_and_one_class_may_be_all_it_holds() -> None:
    met = source.stream(DEFAULTS)
    assert met.names == ("clean", "impulse 5", "brightness 5", "fog 5", "clean")
    assert len(met) == 32 + 3 * 64 + 32
    assert len(set(met.labels.tolist())) == 10
    alone = source.stream(replace(DEFAULTS, only=7))
    assert set(alone.labels.tolist()) == {7}
    assert len(alone) == len(met)


def test_a_stream_goes_through_the_corruptions_that_are_asked_for_and_the_hosts_network_has_learnt_none() -> None:
    asked = parse("cema", "shifts=motion+gauss,severity=3", DEFAULTS)
    met = source.stream(asked)
    assert met.names == ("clean", "motion 3", "gauss 3", "clean")
    drawn: list[str] = []

    def corrupt(images: FloatArray, kind: str, *_: object) -> FloatArray:
        drawn.append(kind)
        return images

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corruptions, "corrupt", corrupt)
        clean, labels = source.varied_images(asked.corruptions())
    assert set(drawn) == set(CORRUPTIONS) - {"motion", "gauss"}
    assert len(clean) == len(labels) == 2 * len(source.training_images()[0])


def test_a_mixed_stream_has_every_corruption_at_every_severity_equally_often() -> None:
    met = source.segments(replace(DEFAULTS, stream="mixed", length=100))
    kinds = [(one.corruption, one.severity) for one in met]
    assert len(set(kinds)) == 50
    assert all(kinds.count(kind) == 2 for kind in set(kinds))


def test_a_stream_that_no_batches_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="256 samples, which is no whole number of batches of 48"):
        source.stream(replace(DEFAULTS, method="tent", batch=48))
    source.stream(replace(DEFAULTS, method="od", batch=48))


def test_nothing_of_the_streams_images_is_trained_on() -> None:
    trained, _ = source.training_images()
    seen = {image.tobytes() for image in trained.numpy()}
    met = source.stream(replace(DEFAULTS, stream="clean", length=700))
    assert not any(image.tobytes() in seen for image in met.images)


# ---- methods against their equations ----


def test_a_sample_norm_that_trusts_the_source_alone_is_batch_norm_and_the_sample_alone_instance_norm() -> None:
    x = images(1)
    alone = networks.with_norms(small_network(), networks.batch_norm_of_batch)
    for tau, other in ((1.0, small_network()), (0.0, alone)):
        made = networks.with_norms(small_network(), partial(sample_norm, tau))
        with torch.no_grad():
            torch.testing.assert_close(made(x), other(x), atol=1e-4, rtol=1e-3)


def sample_norm(tau: float, norm: nn.BatchNorm2d, _: int) -> nn.Module:
    """Alpha-BN."""
    return networks.SampleNorm(norm, tau, 0.0)


def test_leantta_is_its_algorithm_one() -> None:
    norm = small_network()[1]
    assert isinstance(norm, nn.BatchNorm2d)
    source_mean, source_variance = (one.numpy().astype(np.float64) for one in networks.statistics(norm))
    x = np.random.default_rng(1).normal(1, 2, (1, 4, 5, 5))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    stable_mean = 0.9 * source_mean + 0.1 * mean
    stable_variance = 0.9 * source_variance + 0.1 * variance
    distance = 1 - np.exp(-np.sum((stable_mean - source_mean) ** 2 / source_variance))
    share = 0.9 * distance
    new_mean = share * source_mean + (1 - share) * stable_mean
    new_variance = share * source_variance + (1 - share) * stable_variance
    gain, shift = (one.detach().numpy()[:, None, None] for one in (norm.weight, norm.bias))
    expected = (x - new_mean[:, None, None]) / np.sqrt(new_variance + norm.eps)[:, None, None] * gain + shift
    with torch.no_grad():
        found = networks.SampleNorm(norm, 0.9, 0.9)(torch.from_numpy(x.astype(np.float32)))
    assert 0.1 < distance < 1, "neither end of the balance"
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_moving_moments_begin_as_the_source_and_average_what_passes() -> None:
    moving = networks.MovingNetwork(small_network())
    x = images(3)
    with torch.no_grad():
        torch.testing.assert_close(moving(x).output[:, :10], small_network()(x), atol=1e-5, rtol=1e-4)
    first = next(moving.norms())
    before = first.mean.detach().clone(), first.square.detach().clone()
    names = reference.moment_names(moving)
    reference._average(moving, x, {name: dict(moving.named_parameters())[name] for name in names})
    with torch.no_grad():
        seen = [moving.layers[0](one[None]) for one in x]
    means = torch.stack([before[0], *(one.mean((0, 2, 3)) for one in seen)]).mean(0)
    squares = torch.stack([before[1], *((one * one).mean((0, 2, 3)) for one in seen)]).mean(0)
    torch.testing.assert_close(first.mean.detach(), means)
    torch.testing.assert_close(first.square.detach(), squares)


def test_moments_of_many_images_normalise_as_batch_norm_of_the_batch_does() -> None:
    x = images(40, seed=3) * 2
    moving = networks.MovingNetwork(small_network())
    reference.load(moving, reference.moments_of(networks.MovingNetwork(small_network()), x))
    batch = networks.with_norms(small_network(), networks.batch_norm_of_batch)
    with torch.no_grad():
        torch.testing.assert_close(moving(x).output[:, :10], batch(x), atol=1e-3, rtol=1e-3)


def test_the_nearest_source_state_is_taken_whatever_was_adapted_to_before() -> None:
    moving = networks.MovingNetwork(small_network())
    clean = dict(moving.named_parameters())
    variables = {name: clean[name].detach().numpy().copy() for name in reference.moment_names(moving)}
    near, far = images(8), images(8, seed=1) * 3
    states = [
        reference.State(name, reference.signature_of(moving, some), variables)
        for name, some in (("a", near), ("b", far))
    ]
    reference.load(moving, {name: value * 2 for name, value in variables.items()})
    assert reference._nearest(moving, far, states).name == "b"
    assert reference._nearest(moving, near, states).name == "a"


def test_tent_lowers_the_entropy_of_what_it_has_seen_and_moves_scale_and_shift_alone() -> None:
    network = networks.with_norms(small_network(), networks.batch_norm_of_batch)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    x = images(8)
    with torch.no_grad():
        first = networks.entropy(network(x), torch.zeros(1))
    found = reference.tent(network, x.repeat(20, 1, 1, 1), 8, 1e-2)
    with torch.no_grad():
        last = networks.entropy(network(x), torch.zeros(1))
    assert last < first
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == set(found.variables) == set(reference.affine_names(network))
    assert found.adapted == tuple(range(20))


def test_the_affine_pass_moves_scale_and_shift_where_the_network_is_sure_and_its_gate_is_open() -> None:
    plain, moving = networks.MovingNetwork(small_network()), networks.MovingNetwork(small_network(), affine=True)
    assert reference.variable_names(plain) == reference.moment_names(plain)
    affine = {name for name in reference.variable_names(moving) if name.endswith((".weight", ".bias"))}
    assert len(affine) == 2 * 4
    assert set(reference.variable_names(moving)) == affine | set(reference.moment_names(moving))
    x = images(1)
    with torch.no_grad():
        dict(moving.named_parameters())["layers.14.weight"].mul_(30)
        torch.testing.assert_close(moving(x).output[:, 10:], plain(x).output[:, 10:])
    own = {name: one for name, one in moving.named_parameters() if name in affine}
    for gate in (0.0, 1.0):
        loss = networks.gated_entropy(moving(x).output, torch.full((1,), gate))
        found = torch.autograd.grad(loss, list(own.values()))
        assert (max(one.abs().max().item() for one in found) > 0) == (gate > 0)
    unsure = torch.zeros(1, 10)
    assert networks.gated_entropy(unsure, torch.ones(1)).item() == 0.0


def test_entropy_is_pytorchs() -> None:
    logits = torch.randn(5, 10, generator=torch.Generator().manual_seed(1)) * 4
    theirs = torch.special.entr(logits.softmax(1)).sum(1)
    assert networks.entropy(logits, torch.zeros(1)).item() == pytest.approx(theirs.mean().item(), rel=1e-5)
    for row, expected in zip(logits.numpy(), theirs, strict=True):
        assert reference.softmax_entropy(row) == pytest.approx(expected.item(), rel=1e-5)


# ---- the detector ----


class _Settings(ctypes.Structure):
    _fields_ = (("weight", ctypes.c_float), ("threshold", ctypes.c_float), ("settle", ctypes.c_uint32))


class _State(ctypes.Structure):
    _fields_ = (("average", ctypes.c_float), ("base", ctypes.c_float), ("seen", ctypes.c_uint32))


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The runner's detector, built for this computer."""
    library = tmp_path_factory.mktemp("detector") / "detector.so"
    runner = project_root() / "firmware" / "runner"
    command = ["gcc", "-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{runner}",
               str(runner / "detector.c"), "-lm", "-o", str(library)]  # fmt: skip
    subprocess.run(command, check=True)
    found = ctypes.CDLL(str(library))
    found.softmax_entropy.restype = ctypes.c_float
    found.detector_sees.restype = ctypes.c_bool
    return found


def logits_of(scale: float) -> np.ndarray:
    """Ten logits, the first ahead by ``scale``."""
    found = np.zeros(10, np.float32)
    found[0] = scale
    return found


def alarms(firmware: ctypes.CDLL, settings_: Detector, stream: list[np.ndarray]) -> list[bool]:
    watched, chosen = _State(), _Settings(settings_.weight, settings_.threshold, settings_.settle)
    return [
        firmware.detector_sees(ctypes.byref(watched), ctypes.byref(chosen), one.ctypes.data_as(ctypes.c_void_p), 10)
        for one in stream
    ]


@needs_host_compiler
@given(st.lists(st.floats(0, 20, width=32), min_size=1, max_size=120), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_firmwares_detector_is_the_references(firmware: ctypes.CDLL, scales: list[float], settle: int) -> None:
    chosen = Detector(weight=0.1, threshold=0.25, settle=settle)
    watch, stream = reference.Watch(chosen), [logits_of(scale) for scale in scales]
    expected = []
    for one in stream:
        expected.append(watch.sees(one))
        value = firmware.softmax_entropy(one.ctypes.data_as(ctypes.c_void_p), 10)
        assert value == pytest.approx(reference.softmax_entropy(one), abs=2e-6)
    found = alarms(firmware, chosen, stream)
    # Where the average lies on the threshold itself, float32 and float64 may differ.
    assert sum(one != other for one, other in zip(found, expected, strict=True)) <= 1


@needs_host_compiler
@pytest.mark.parametrize(("before", "after"), [(9.0, 1.0), (1.0, 9.0)])
def test_a_shift_to_either_side_alarms_soon_and_a_steady_stream_never(
    firmware: ctypes.CDLL, before: float, after: float
) -> None:
    chosen = Detector()
    steady = alarms(firmware, chosen, [logits_of(before)] * 300)
    assert not any(steady)
    shifted = alarms(firmware, chosen, [logits_of(before)] * 60 + [logits_of(after)] * 20)
    assert not any(shifted[:60])
    assert True in shifted[60:66]


@needs_host_compiler
def test_nothing_alarms_before_the_base_is_there_and_logits_of_any_size_have_an_entropy(firmware: ctypes.CDLL) -> None:
    assert not any(alarms(firmware, Detector(settle=50), [logits_of(9.0)] * 20 + [logits_of(0.0)] * 30))
    for scale, expected in ((1e30, 0.0), (0.0, np.log(10))):
        found = firmware.softmax_entropy(logits_of(scale).ctypes.data_as(ctypes.c_void_p), 10)
        assert found == pytest.approx(expected, abs=1e-6)


# ---- preparation, and what is refused of a device ----


@cache
def prepared(variant: str) -> Prepared:
    return get("od-tta").prepare(cache_dir(), variant)


def test_the_source_network_repeats_to_the_bit(tmp_path: Path) -> None:
    first, again = (source.source_network("small", folder).state_dict() for folder in (cache_dir(), tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_preparation_describes_the_stream() -> None:
    first = prepared(VARIANT)
    assert first.stream is not None
    assert first.stream.samples == first.job.count == 320
    assert first.job.name == "adapt"
    training = first.model.training
    assert training is not None
    signature = 4 * (first.model.output.size // 4 - 10)
    assert len(first.job.blobs["pool"]) == 4 * (signature + training.variables_bytes)
    assert first.stream.metered.count < 40
    assert first.stream.metered.parameters["threshold"] == 0
    assert {score.metric: score.value for score in first.check(first.reference_outputs)}["agreement"] == 1


@needs_host_compiler
def test_leantta_as_it_is_compiled_answers_as_pytorch_does(tmp_path: Path) -> None:
    made = get("lean-tta").prepare(cache_dir(), "precision=float32,layers=4,length=50")
    assert made.job.name == "infer"
    samples = np.frombuffer(made.job.blob, np.float32).reshape(50, 16, 16, 1)
    outputs = HostModel(made.model, tmp_path).run(samples)
    scores = {score.metric: score for score in made.check(outputs.view(np.int8))}
    assert scores["output_error"].value < 1e-5
    assert scores["accuracy"].value == scores["accuracy"].reference
    assert made.stream is not None
    assert made.stream.check((), {}) == [Score("adaptations", 0.0, 0.0)]


def test_outputs_places_and_variables_that_are_not_pytorchs_are_refused() -> None:
    made = prepared(VARIANT)
    outputs = made.reference_outputs.copy()
    values = outputs.view(np.float32)
    values[:40, :10] = -values[:40, :10]
    with pytest.raises(WorkloadError, match=r"agrees with PyTorch on \d+\.\d+% of 320 samples"):
        made.check(outputs)
    poisoned = made.reference_outputs.copy()
    poisoned.view(np.float32)[:] = np.nan
    with pytest.raises(WorkloadError, match="agrees with PyTorch"):
        made.check(poisoned)
    assert made.stream is not None
    assert made.model.training is not None
    zeros = {one.name: bytes(one.size_bytes) for one in made.model.training.variables}
    with pytest.raises(WorkloadError, match="the device adapted at no sample, PyTorch at "):
        made.stream.check((), zeros)
    with pytest.raises(WorkloadError, match="the device adapted at 0, 1, 2, 3, 4, 5, 6, 7 …, PyTorch at "):
        made.stream.check(range(9), zeros)
    with pytest.raises(WorkloadError, match="the device's variables are off PyTorch's by"):
        made.stream.check(_adapted(made), zeros)


def _adapted(made: Prepared) -> tuple[int, ...]:
    """Where PyTorch adapts, from the facts for the report."""
    fact = next(one for one in made.facts if one.startswith("On demand"))
    told = fact.split("here at ")[1].split(". Statistics")[0]
    return tuple(int(one.split(" ")[0]) for one in told.split(", "))


def test_adaptation_on_demand_gains_and_leaves_a_clean_stream_alone() -> None:
    made = prepared(VARIANT)
    scores = {score.metric: score for score in made.check(made.reference_outputs)}
    assert scores["accuracy_gain"].value > 0
    assert len(_adapted(made)) >= 2
    assert {figure.metric: figure.value for figure in made.figures}["false_alarms"] == 0


def test_baselines_and_claims_of_the_workloads_are_variants_that_exist() -> None:
    for name in ("od-tta", "lean-tta", "eco-tta"):
        workload = get(name)
        assert workload.family == "adaptation"
        for variant in workload.baselines:
            parse(name, variant, DEFAULTS)
