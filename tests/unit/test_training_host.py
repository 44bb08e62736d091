"""Training through the whole runner on this computer, under sanitizers, against PyTorch."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import entry, needs_host_compiler, tiny_model
from helpers.trained import (
    ARENA_USED_BYTES,
    CLASSES,
    INPUTS,
    STEPS,
    FloatArray,
    as_floats,
    data,
    initial_parameters,
    reference,
    trained_model,
    xorshift32,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lab.build import Sanitizers, build
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import ConfigError, ProtocolError, WorkloadError
from lab.events import Job, RegionEvent, ResultEvent
from lab.paths import cache_dir
from lab.training import (
    BACKWARD,
    FORWARD,
    LAYER,
    UPDATE,
    Checkpoint,
    checkpoint,
    forget,
    read_parameters,
    restore,
    train,
    training_job,
)

pytestmark = needs_host_compiler

COUNT = 12
RATE = 0.02
AGREEMENT = 2e-5
SAMPLES, LABELS = data(COUNT)
Watched: tuple[Sanitizers, ...] = ("address,undefined", "thread")


def deployed(device: Device, sanitize: Sanitizers = "address,undefined", defines: str = "") -> str:
    """Put the model on the device; its build id."""
    artifact = build(trained_model(defines), "host", cache=cache_dir(), sanitize=sanitize)
    return device.deploy(artifact).build_id


@pytest.fixture
def device() -> Iterator[Device]:
    with connected(entry("host"), cache_dir()) as one:
        deployed(one)
        yield one


@pytest.fixture(scope="module")
def shared() -> Iterator[Device]:
    with connected(entry("host"), cache_dir()) as one:
        deployed(one)
        yield one


def logits(device: Device, samples: FloatArray) -> FloatArray:
    events = device.run(Job("infer", samples.tobytes(), len(samples)))
    return np.array([as_floats(event.data) for event in events if isinstance(event, ResultEvent)])


# ---- steps --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sanitize", Watched)
def test_losses_and_variables_are_those_of_pytorch(sanitize: Sanitizers) -> None:
    expected = reference(SAMPLES, LABELS, [*range(COUNT)] * 3, RATE)
    with connected(entry("host"), cache_dir()) as device:
        deployed(device, sanitize)
        result = train(device, SAMPLES, LABELS, epochs=3, learning_rate=RATE)
        found = read_parameters(device)
    assert result.losses == pytest.approx(expected.losses, rel=AGREEMENT, abs=AGREEMENT)
    assert list(found) == ["linear.weight", "linear.bias", "linear.weight.momentum"]
    for data_, value in zip(found.values(), (expected.weight, expected.bias, expected.momentum), strict=True):
        assert as_floats(data_) == pytest.approx(value.ravel(), rel=AGREEMENT, abs=AGREEMENT)
    assert result.losses[-COUNT:].mean() < 0.2 * result.losses[:COUNT].mean()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.lists(st.integers(0, COUNT - 1), min_size=2 * COUNT, max_size=2 * COUNT),
    rate=st.floats(0, 0.125, width=32),
    seed=st.integers(1, 2**32 - 1),
)
def test_any_order_rate_and_seed(shared: Device, order: list[int], rate: float, seed: int) -> None:
    forget(shared)
    result = train(shared, SAMPLES, LABELS, epochs=2, learning_rate=rate, seed=seed, order=order)
    expected = reference(SAMPLES, LABELS, order, rate)
    assert result.losses == pytest.approx(expected.losses, rel=1e-4, abs=1e-4)
    saved = checkpoint(shared)
    assert as_floats(saved.variables["linear.weight"]) == pytest.approx(expected.weight.ravel(), rel=1e-4, abs=1e-4)
    assert (saved.step, saved.random) == (2 * COUNT, xorshift32(seed, 2 * COUNT))


def test_every_step_is_three_regions_and_memory_is_that_of_training(device: Device) -> None:
    result = train(device, SAMPLES, LABELS, epochs=2, learning_rate=RATE)
    found = [(event.region, event.index) for event in result.events]
    assert found == [(region, step) for step in range(2 * COUNT) for region in (FORWARD, BACKWARD, UPDATE)]
    edges = [edge for event in result.events for edge in (event.begin, event.end)]
    assert edges == sorted(edges)
    assert (result.done.events, result.done.results) == (6 * COUNT, 0)
    assert result.done.arena_high_water == ARENA_USED_BYTES


def test_a_model_that_updates_at_once_has_no_region_for_it() -> None:
    with connected(entry("host"), cache_dir()) as device:
        deployed(device, defines="#define UPDATES_AT_ONCE\n")
        result = train(device, SAMPLES, LABELS, learning_rate=RATE)
    assert [event.region for event in result.events] == [FORWARD, BACKWARD] * COUNT


def test_a_profiled_step_follows_and_trains_on_the_first_sample(device: Device) -> None:
    job = replace(training_job(SAMPLES[:2], LABELS[:2], learning_rate=RATE), profile=True)
    events = [event for event in device.run(job) if isinstance(event, RegionEvent)]
    assert [(event.region, event.index) for event in events[6:]] == [(LAYER, k) for k in range(len(STEPS))]
    expected = reference(SAMPLES, LABELS, [0, 1, 0], RATE)
    assert as_floats(read_parameters(device)["linear.weight"]) == pytest.approx(expected.weight.ravel(), abs=AGREEMENT)
    assert checkpoint(device).step == 3


def test_inference_uses_the_trained_values_until_a_reset(device: Device) -> None:
    def affine(weight: FloatArray, bias: FloatArray) -> FloatArray:
        return SAMPLES @ weight.T + bias

    train(device, SAMPLES, LABELS, learning_rate=RATE)
    expected = reference(SAMPLES, LABELS, range(COUNT), RATE)
    trained = logits(device, SAMPLES)
    assert trained == pytest.approx(affine(expected.weight, expected.bias), abs=1e-4)
    assert np.array_equal(trained, logits(device, SAMPLES))
    device.reset("soft")
    assert logits(device, SAMPLES) == pytest.approx(affine(*initial_parameters()), abs=1e-6)
    assert (checkpoint(device).step, checkpoint(device).random) == (0, 1)


def test_training_goes_on_where_it_stopped_and_can_be_forgotten(device: Device) -> None:
    before = checkpoint(device)
    whole = train(device, SAMPLES, LABELS, epochs=2, learning_rate=RATE, seed=5).losses
    end = checkpoint(device)
    forget(device)
    assert checkpoint(device) == before
    halves = [train(device, SAMPLES, LABELS, learning_rate=RATE, seed=5).losses for _ in range(2)]
    assert np.array_equal(np.concatenate(halves), whole)
    assert checkpoint(device).variables == end.variables


# ---- what is refused ----------------------------------------------------------------------------------------------


def refusal(device: Device, job: Job) -> str:
    """What the device says, and that it changed nothing."""
    before = checkpoint(device)
    with pytest.raises(ProtocolError) as caught:
        list(device.run(job))
    assert checkpoint(device) == before
    return caught.value.message


def altered(**changes: object) -> Job:
    job = training_job(SAMPLES, LABELS, epochs=2, learning_rate=RATE, seed=9)
    blobs = {**job.blobs, **{name: value for name, value in changes.items() if isinstance(value, bytes)}}
    parameters = {**job.parameters, **{key: value for key, value in changes.items() if isinstance(value, int | float)}}
    return replace(job, blobs=blobs, parameters=parameters)


@pytest.mark.parametrize(("label", "sample"), [(CLASSES, 0), (-1, COUNT - 1), (-(2**31), 3), (2**31 - 1, 4)])
def test_a_label_out_of_range_is_refused_by_name_before_anything_is_trained(
    device: Device, label: int, sample: int
) -> None:
    labels = LABELS.copy()
    labels[sample] = label
    message = refusal(device, training_job(SAMPLES, labels, learning_rate=RATE))
    assert message == (
        f"the device reported 'input' at targets: sample {sample} has label {label}; labels go from 0 to {CLASSES - 1}"
    )


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (replace(altered(), blob=SAMPLES.tobytes()[:-1]), "'input' at samples: the blob has 4799 bytes; 12 times 400"),
        (replace(altered(), blob=SAMPLES.tobytes() + b"!"), "'input' at samples: the blob has 4801 bytes"),
        (replace(altered(), blob=b""), "'input' at samples: the blob has 0 bytes"),
        (replace(altered(), count=COUNT - 1), "'input' at samples: the blob has 4800 bytes; 11 times 400 are needed"),
        (replace(altered(), count=0), "'input' at train: the number of samples times that of epochs must be from 1"),
        (replace(altered(), repeats=0), "'input' at train: the number of samples times that of epochs must be from 1"),
        (replace(altered(), repeats=2**31), "'input' at train: the number of samples times that of epochs"),
        (altered(targets=bytes(4 * COUNT - 4)), "'input' at targets: the blob has 44 bytes; 12 times 4 are needed"),
        (replace(altered(order=1), blobs={**altered().blobs, "order": bytes(46)}), "46 bytes; 24 times 2 are needed"),
        (
            replace(altered(order=1), blobs={**altered().blobs, "order": bytes(44) + struct.pack("<2H", 12, 0)}),
            "'input' at order: step 22 asks for sample 12 of 12",
        ),
        (altered(lr=-0.5), "'input' at train: the learning rate 'lr' must be given, finite and not below 0"),
        (altered(lr=float("nan")), "'input' at train: the learning rate"),
        (altered(lr=float("inf")), "'input' at train: the learning rate"),
        (altered(lr=1e39), "'input' at train: the learning rate"),
        (replace(altered(), parameters={}), "'input' at train: the learning rate"),
        (altered(seed=0), "'input' at train: 'seed' must be from 1 to 4294967295"),
        (altered(seed=2**32), "'input' at train: 'seed' must be from 1 to 4294967295"),
        (replace(altered(), warmup=1), "'input' at train: training has no warm-up"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_before_anything_is_trained(
    shared: Device, job: Job, message: str
) -> None:
    assert re.search(re.escape(message), refusal(shared, job))


@pytest.mark.parametrize(
    ("job", "blob"),
    [
        (replace(altered(), blobs={}), "targets"),
        (altered(order=1), "order"),
        (Job("restore", b"", 0, warmup=0), "checkpoint"),
    ],
)
def test_a_blob_that_was_never_put_is_named(device: Device, job: Job, blob: str) -> None:
    assert refusal(device, job).endswith(f"'input' at {blob}: there is no such blob, or it is incomplete")


@pytest.mark.parametrize("name", ["train", "parameters", "restore", "forget"])
def test_a_model_that_is_not_trained_refuses(name: str) -> None:
    with connected(entry("host"), cache_dir()) as device:
        device.deploy(build(tiny_model(), "host", cache=cache_dir(), sanitize="address,undefined"))
        with pytest.raises(ProtocolError, match=f"'unknown' at {name}: .* compiled without training"):
            list(device.run(Job(name, b"", 1)))


@pytest.mark.parametrize(("poison", "said"), [(np.nan, "not a number"), (1e30, "infinite")])
def test_a_loss_that_is_no_number_stops_training_with_step_and_region(
    device: Device, poison: float, said: str
) -> None:
    """The second poison overflows nothing: it makes the right class impossible, and the logarithm of 0 is infinite."""
    expected = reference(SAMPLES, LABELS, range(7), RATE)
    samples, labels = SAMPLES.copy(), LABELS.copy()
    samples[7] *= poison
    labels[7] = (expected.weight @ SAMPLES[7]).argmin()
    with pytest.raises(WorkloadError, match=f"'nan' at {FORWARD}: step 7, sample 7: the loss is {said}"):
        train(device, samples, labels, epochs=2, learning_rate=RATE)
    saved = checkpoint(device)
    assert saved.step == 7
    assert as_floats(saved.variables["linear.weight"]) == pytest.approx(expected.weight.ravel(), abs=AGREEMENT)


def test_training_that_diverges_stops_by_itself(device: Device) -> None:
    with pytest.raises(WorkloadError, match=rf"at {FORWARD}: step [1-9]\d*, .*\n.*smaller learning rate"):
        train(device, SAMPLES, LABELS, epochs=50, learning_rate=1e37)


# ---- checkpoints --------------------------------------------------------------------------------------------------


def test_a_checkpoint_survives_a_file_and_a_reset_to_the_bit(device: Device, tmp_path: Path) -> None:
    train(device, SAMPLES, LABELS, learning_rate=RATE, seed=77)
    checkpoint(device).save(tmp_path / "middle.npz")
    straight = list(device.run(continued := _without_seed()))
    end = checkpoint(device)
    device.reset("soft")
    restore(device, Checkpoint.load(tmp_path / "middle.npz"))
    again = list(device.run(continued))
    assert checkpoint(device) == end
    assert end.step == 2 * COUNT
    assert end.random == xorshift32(77, 2 * COUNT)
    losses = [[event.value for event in events if hasattr(event, "value")] for events in (straight, again)]
    assert losses[0] == losses[1]


def _without_seed() -> Job:
    job = training_job(SAMPLES, LABELS, learning_rate=RATE)
    return replace(job, parameters={"lr": RATE})


def test_the_head_of_a_checkpoint_is_as_documented(device: Device) -> None:
    build_id = deployed(device)
    train(device, SAMPLES, LABELS, learning_rate=RATE)
    saved = checkpoint(device)
    whole = b"".join(saved.variables.values())
    assert saved.to_bytes() == b"labckpt1" + build_id.encode() + struct.pack(
        "<IIII", len(whole), zlib.crc32(whole), COUNT, xorshift32(1, COUNT)
    ) + whole  # fmt: skip
    assert len(whole) == 4 * (2 * INPUTS * CLASSES + CLASSES)


def restoring(blob: bytes) -> Job:
    return Job("restore", b"", 0, warmup=0, blobs={"checkpoint": blob})


def test_a_checkpoint_of_another_build_is_refused_by_name(device: Device) -> None:
    other = replace(checkpoint(device), build_id="fedcba9876543210")
    message = refusal(device, restoring(other.to_bytes()))
    own = checkpoint(device).build_id
    assert message.endswith(f"'input' at checkpoint: it is of build fedcba9876543210, this is build {own}")


def test_what_is_no_checkpoint_of_this_model_is_refused(shared: Device) -> None:
    good = checkpoint(shared)
    blob = good.to_bytes()
    shorter = replace(good, variables={"linear.weight": bytes(100)}).to_bytes()
    flipped = blob[:-1] + bytes([blob[-1] ^ 1])
    cases = {
        b"": "the blob is no checkpoint",
        blob[:39]: "the blob is no checkpoint",
        b"x" + blob[1:]: "the blob is no checkpoint",
        blob[:8] + b"\x00\xff\n 56789abcdef012" + blob[24:]: "it is of build ????56789abcdef0",
        shorter: "it holds 100 bytes of variables and announces 100; this model has 2412",
        blob + b"!": "it holds 2413 bytes of variables and announces 2412; this model has 2412",
        flipped: "'checksum' at checkpoint: its variables do not hold what its checksum says",
        replace(good, random=0).to_bytes(): "its random state is 0",
    }
    for bad, message in cases.items():
        assert message in refusal(shared, restoring(bad))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_damaged_blob_never_becomes_variables(shared: Device, place: int, change: int) -> None:
    good = checkpoint(shared)
    blob = bytearray(good.to_bytes())
    counters = range(32, 40)  # step and random state, which no checksum covers
    place %= len(blob)
    if place in counters:
        place += len(counters)
    blob[place] ^= change
    refusal(shared, restoring(bytes(blob)))


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "flipped", "other", "headless"])
def test_a_damaged_file_is_refused_by_name(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "saved.npz"
    Checkpoint("0" * 16, 4, 5, {"a.weight": bytes(range(200)), "b": b""}).save(path)
    assert Checkpoint.load(path).variables == {"a.weight": bytes(range(200)), "b": b""}
    whole = path.read_bytes()
    match damage:
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("learning rate: 0.1")
        case "cut":
            path.write_bytes(whole[: len(whole) // 2])
        case "flipped":
            at = whole.index(bytes(range(100, 120)))
            path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        case "other":
            np.savez(path, weights=np.zeros(3))
        case _:
            np.save(path.open("wb"), np.zeros(3))
    with pytest.raises(ConfigError, match=re.escape(os.fspath(path))):
        Checkpoint.load(path)
