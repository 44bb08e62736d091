"""Batches of one and streams of a single class: every method of test-time adaptation has defined answers for them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.adaptation import source
from lab.workloads.adaptation.options import Options

ONE_CLASS, LENGTH = "only=7,length=8", 8


def logits_of(variant: str) -> npt.NDArray[np.float32]:
    """What PyTorch answers to the stream, (samples, classes); the workload accepts its own reference."""
    prepared = get("od-tta").prepare(cache_dir(), variant)
    assert prepared.stream is not None
    samples = prepared.stream.samples
    scores = {score.metric: score for score in prepared.check(prepared.reference_outputs)}
    assert scores["accuracy"].trials == samples
    return prepared.reference_outputs.view(np.float32).reshape(samples, -1)[:, :10]


def test_gradient_descent_on_batches_of_one_has_finite_answers() -> None:
    answers = logits_of(f"method=tent,batch=1,{ONE_CLASS}")
    assert answers.shape == (4 * LENGTH, 10), "the clean stretches are half as long"
    assert np.isfinite(answers).all()


def test_batch_norm_of_a_batch_of_one_is_that_of_the_sample() -> None:
    """And nothing is kept from one to the next: PyTorch answers to each alone as the stream does."""
    network = source.source_network("small", cache_dir()).train()
    met = source.stream(Options(method="bn", stream="shifts", length=LENGTH, only=7))
    with torch.no_grad():
        alone = torch.cat([network(torch.from_numpy(met.images[place : place + 1])) for place in range(len(met))])
    np.testing.assert_allclose(logits_of(f"method=bn,batch=1,{ONE_CLASS}"), alone, atol=1e-4)


def test_detection_sees_a_stream_of_one_class_through() -> None:
    answers = logits_of("method=od,length=64,only=7")
    assert np.isfinite(answers).all()
    assert len(answers) == 256
    assert float(np.mean(answers[:32].argmax(axis=1) == 7)) > 0.9, "before the shift the source is as good as ever"
