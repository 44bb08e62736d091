"""The lab as runner of the benchmark's keyword spotting model on an emulated M4F, in virtual time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.mlperf_client import MlperfClient

from lab.bench import Bench
from lab.mlperf.benchmarks import benchmark
from lab.mlperf.serve import served
from lab.mlperf.session import Request, run
from lab.paths import config_dir
from measurements.record import Record, Run
from measurements.store import Store

litert = pytest.importorskip("ai_edge_litert.interpreter", reason="LiteRT, the reference, is not installed")

FILES = 12
INFER_S = 300.0
# 0.4 s of virtual time each: 26 make a window of ten seconds, the benchmark's 70 one of 28.
KWS = replace(benchmark("kws01"), iterations=26, warmups=1)


@pytest.fixture(scope="module")
def model() -> Path:
    file = Path(os.environ.get("LAB_DATA", "")) / "mlperf-tiny" / "kws_ref_model.tflite"
    if not file.is_file():
        pytest.skip("LAB_DATA does not hold the mlperf-tiny models")
    return file


@pytest.fixture(scope="module")
def port(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One board for all modes; each client opens its port anew."""
    entry = Bench.load(config_dir() / "emulated.yaml").get("m4f")
    with served(entry, model, "kws01", "performance", tmp_path_factory.mktemp("cache")) as board:
        yield board.port


def classes(model: Path, samples: list[bytes]) -> list[int]:
    """LiteRT's class of each sample."""
    reference = litert.Interpreter(
        str(model), experimental_op_resolver_type=litert.OpResolverType.BUILTIN_REF, num_threads=1
    )
    reference.allocate_tensors()
    (source,), (target,) = reference.get_input_details(), reference.get_output_details()
    found = []
    for sample in samples:
        reference.set_tensor(source["index"], np.frombuffer(sample, np.int8).reshape(source["shape"]))
        reference.invoke()
        found.append(int(np.argmax(reference.get_tensor(target["index"]))))
    return found


def labelled_set(model: Path, folder: Path) -> list[Path]:
    """Made-up files of which the model has all but the last two right."""
    generator = np.random.default_rng(3)
    # Wide and narrow levels: more than one class comes out.
    levels = generator.normal(generator.uniform(-60, 90, (FILES, 1)), 25, (FILES, KWS.input_bytes))
    samples = [np.clip(row, -128, 127).astype(np.int8).tobytes() for row in levels]
    labels = classes(model, samples)
    labels[-2:] = [(label + 1) % KWS.results for label in labels[-2:]]
    paths = [folder / f"{number}.bin" for number in range(FILES)]
    for path, sample in zip(paths, samples, strict=True):
        path.write_bytes(sample)
    rows = [f"{path.name},{KWS.results},{label}\n" for path, label in zip(paths, labels, strict=True)]
    (folder / "y_labels.csv").write_text("".join(rows))
    return paths


def record(one: Run, metric: str) -> Record:
    return next(record for record in one.records if record.metric == metric)


def test_accuracy_is_that_of_litert(model: Path, port: str, tmp_path: Path) -> None:
    labelled_set(model, tmp_path)
    with Store(tmp_path / "store") as store:
        scored = run(Request(port, KWS, "accuracy", tmp_path, True, infer_s=INFER_S), store, "s")
    assert record(scored, "accuracy").median == pytest.approx((FILES - 2) / FILES)


def test_performance_agrees_with_the_independent_client(model: Path, port: str, tmp_path: Path) -> None:
    """Five windows of at least ten virtual seconds; the client times the same work on the same board."""
    paths = labelled_set(model, tmp_path)
    with Store(tmp_path / "store") as store:
        timed = run(Request(port, KWS, "performance", tmp_path, True, infer_s=INFER_S), store, "s")
    durations = record(timed, "duration")
    assert durations.n == 5
    assert all(10.0 <= seconds < 11.5 for seconds in durations.raw)
    assert {one.source for one in timed.records} == {"emulated"}
    with MlperfClient(port) as client:
        client.load(paths[0].read_bytes())
        (begin, end), _ = client.infer(5, 0)
    # What an inference takes depends on its input by some instructions only.
    assert record(timed, "latency").median == pytest.approx((end - begin) * 1e-6 / 5, rel=1e-3)
