"""CEMA on an emulated Cortex-M4F, with this computer as its host; the job ``filter`` alone, and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers.toolchain import needs_qemu

from lab.bench import Bench
from lab.build import build
from lab.comparison import Sizes, run_on
from lab.devices.base import Device
from lab.devices.connect import connected
from lab.errors import ProtocolError, WorkloadError
from lab.events import Job, MetricEvent, RegionEvent, ResultEvent
from lab.paths import cache_dir, project_root
from lab.workloads.adaptation.cema import WORKLOAD
from lab.workloads.adaptation.entropy_filter import EntropyFilter, Thresholds
from lab.workloads.adaptation.reference import softmax_entropy
from lab.workloads.base import FloatArray
from measurements.store import Store

VARIANT = "foundation=small,length=32"
BENCH = project_root() / "device_configs" / "emulated.yaml"
SAMPLES = 24


@needs_qemu
def test_a_board_uploads_what_pytorch_does_and_infers_with_what_it_receives(tmp_path: Path) -> None:
    device_entry = Bench.load(BENCH).get("m4f")
    plain = WORKLOAD.prepare(cache_dir(), f"{VARIANT},method=none")
    with Store(tmp_path / "store") as store, connected(device_entry, cache_dir()) as device:
        alone = replace(WORKLOAD, baselines=())
        found = run_on(device_entry, device, alone, VARIANT, store, "s", Sizes(), cache_dir()).method
    for metric in ("accuracy", "uploaded_share", "bytes_up", "bytes_down", "bytes_per_sample"):
        assert found.median(metric, "run") == found.median(f"{metric}.reference", "run"), metric
    assert 0 < found.median("uploaded_share", "run") < 1
    assert found.median("bytes_down", "run") > 0
    assert found.median("variable_error", "run") < 1e-6, "the values are those that the host has computed"
    # Nothing is adapted on the device: the stream is its inferences.
    assert found.median("adaptation_share", "run") == 0
    passes = found.median("instructions", "inference")
    assert found.median("instructions_per_sample", "run") == pytest.approx(passes, rel=0.01)
    assert found.median("peak_ram.activations", "run") == plain.model.arena_bytes, "as for inference alone"
    assert found.median("energy", "inference") > 0


# ---- the job, alone ----


@cache
def samples() -> tuple[FloatArray, FloatArray]:
    """The first of the stream, clean and shifted, and their entropies under the unadapted network in PyTorch."""
    plain = WORKLOAD.prepare(cache_dir(), f"{VARIANT},method=none")
    images = np.frombuffer(plain.job.blob, np.float32).reshape(plain.job.count, -1)[:SAMPLES]
    logits = plain.reference_outputs.view(np.float32)[:SAMPLES]
    return images, np.array([softmax_entropy(one) for one in logits])


def piece(first: int, count: int, **parameters: int | float) -> Job:
    images, _ = samples()
    given = {"classes": 10, **asdict(Thresholds()), **parameters}
    return Job("filter", images[first : first + count].tobytes(), count, warmup=0, parameters=given)


def uploaded(device: Device, job: Job) -> list[int]:
    """Places of the samples that came back, each as it was sent."""
    named = [one for one in device.run(job) if isinstance(one, ResultEvent) and one.name == "upload"]
    each = len(job.blob) // job.count
    assert all(one.data == job.blob[one.index * each : (one.index + 1) * each] for one in named)
    return [one.index for one in named]


@needs_qemu
def test_the_filter_goes_on_from_piece_to_piece_until_it_is_told_to_begin() -> None:
    _, nats = samples()
    chosen = Thresholds(float(np.quantile(nats, 0.2)) + 1e-3, float(np.quantile(nats, 0.7)) + 1e-3, settle=3)
    watch = EntropyFilter(chosen)
    expected = [place for place, one in enumerate(nats) if watch.takes(float(one))]
    assert 0 < len(expected) < SAMPLES
    # The image of the test above.
    model = WORKLOAD.prepare(cache_dir(), VARIANT).model
    with connected(Bench.load(BENCH).get("m4f"), cache_dir()) as device:
        device.deploy(build(model, "mps2-an386", cache=cache_dir()))
        for _ in range(2):
            first = uploaded(device, piece(0, 5, begin=1, **asdict(chosen)))
            rest = [5 + one for one in uploaded(device, piece(5, SAMPLES - 5, **asdict(chosen)))]
            assert [*first, *rest] == expected
        events = list(device.run(piece(0, SAMPLES, begin=1)))
        assert sum(isinstance(one, ResultEvent) and one.name == "upload" for one in events) == SAMPLES, "no threshold"
        assert sum(isinstance(one, ResultEvent) and not one.name for one in events) == SAMPLES
        assert [one.index for one in events if isinstance(one, RegionEvent)] == list(range(SAMPLES))
        high = [one.value for one in events if isinstance(one, MetricEvent)]
        assert high == [Thresholds().high]
        assert_refused(device)


def assert_refused(device: Device) -> None:
    """What the job does not take, each for its own reason."""
    job = piece(0, SAMPLES, begin=1)
    for wrong, words in (
        (replace(job, blob=job.blob[:-4]), "samples: the blob does not hold exactly so many samples"),
        (replace(job, count=0, blob=b""), "samples: the blob does not hold exactly so many samples"),
        (replace(job, warmup=1), "filter: a stream has no warm-up and runs once"),
        (replace(job, repeats=2), "filter: a stream has no warm-up and runs once"),
        (replace(job, parameters={}), "classes: it must be given, from 2 to 10"),
        (piece(0, 1, classes=11), "classes: it must be given, from 2 to 10"),
        (piece(0, 1, low=-0.5), "low: it must be given, finite and not below 0"),
        (piece(0, 1, high=float("nan")), "high: it must be given, finite and not below 0"),
        (piece(0, 1, shrink=float("inf")), "shrink: it must be given, finite and not below 0"),
        (piece(0, 1, settle=1 << 32), "settle: it must be given, from 0 to 4294967295"),
    ):
        with pytest.raises(ProtocolError, match=f"'input' at {words}"):
            list(device.run(wrong))
    poisoned = np.frombuffer(job.blob, np.float32).copy().reshape(SAMPLES, -1)
    poisoned[3] = np.nan
    with pytest.raises(WorkloadError, match="'nan' at inference: sample 3: its entropy is no finite number"):
        list(device.run(replace(job, blob=poisoned.tobytes())))
