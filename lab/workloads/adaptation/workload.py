"""Test-time adaptation on a device: one workload's methods and baselines over the same stream.

Everything is inferred on the device, in float32 or int8, and adapted there; but CEMA's host is this computer. What
keeps nothing from sample to sample (none, batch norm of the batch, α-BN, LeanTTA) is the runner's job ``infer``; TENT
and OD-TTA are ``adapt``, CEMA is ``filter``. The same stream in PyTorch on this computer is the reference of outputs,
of when the device adapts or uploads, and of the variables afterwards; of int8 the integer reference is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.workloads import cache as cached
from lab.workloads.adaptation.cloud_rounds import CloudRounds, filter_job
from lab.workloads.adaptation.expectation import Expectation, Integers
from lab.workloads.adaptation.options import (
    BATCHED,
    CHANGING,
    CLASSES,
    COMPARED,
    DETECTOR,
    NETWORKS,
    Options,
    learning_rate,
    parse,
)
from lab.workloads.adaptation.source import SEED, SOURCES, source_network, stream_and_data
from lab.workloads.base import (
    EVERY_CLASS,
    Claim,
    DeviceClass,
    Figure,
    Int8Array,
    Prepared,
    StreamPlan,
)
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.data.corruptions import Stream

METERED = 32


@dataclass
class TestTimeAdaptation:
    """A workload of this family: a method, its stream, its baselines and its claims; see :class:`Options`."""

    __test__ = False

    id: str
    title: str
    systems: tuple[str, ...]
    baselines: tuple[str, ...]
    claims: tuple[Claim, ...]
    defaults: Options
    family: str = "adaptation"
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train the source network, compile the method, and run the stream in PyTorch; cached.

        Raises:
            ConfigError: unknown variant, a stream that no batches fit, or data that cannot be read.
        """
        options = parse(self.id, variant, self.defaults)
        met, dataset = stream_and_data(options)
        entry = cached.obtain(
            cache / "workloads", "adaptation", _key(options, dataset.digest), lambda: _produce(options, met, cache)
        )
        document = json.loads(entry.document)
        model, arrays = model_from_json(document["model"]), entry.arrays
        names = [one.name for one in model.training.variables] if model.training else []
        variables = [name for name in names if f"after {name}" in arrays]
        integers = Integers(arrays["integers"].astype(np.int8), model.output) if "integers" in arrays else None
        expectation = Expectation(
            labels=met.labels.astype(np.float32),
            segments=met.segments.astype(np.float32),
            names=met.names,
            logits=arrays["outputs"].astype(np.float32)[:, :CLASSES],
            adapted=tuple(document["adapted"]),
            states=tuple(document["states"]),
            variables={name: arrays[f"after {name}"].astype(np.float32) for name in variables},
            initial={name: arrays[f"before {name}"].astype(np.float32) for name in variables},
            source_accuracy=document["source_accuracy"],
            uploaded=tuple(document["uploaded"]),
            received=document["received"],
            integers=integers,
        )
        job = _job(options, model, met, arrays["pool"].tobytes())
        return Prepared(
            model=model,
            job=job,
            dataset=dataset,
            reference_outputs=integers.outputs if integers else _reference_outputs(arrays["outputs"], job.count),
            seed=SEED,
            parameters={name: str(value) for name, value in asdict(options).items()},
            check=expectation.check,
            facts=_facts(options, expectation, model),
            figures=(_lower_bound(model), *(Figure(**one) for one in document["figures"])),
            stream=StreamPlan(
                len(met),
                _metered(options, job),
                lambda adapted, raw: expectation.check_adaptation(model, adapted, raw),
                _rounds(options, cache, model, expectation),
            ),
        )


def _reference_outputs(outputs: cached.AnyArray, passes: int) -> Int8Array:
    return np.ascontiguousarray(outputs, np.float32).view(np.int8).reshape(passes, -1)


def _rounds(options: Options, cache: Path, model: CompiledModel, expected: Expectation) -> CloudRounds | None:
    """Of a stream that a host takes part in."""
    if options.method != "cema":
        return None
    return CloudRounds(options, cache, model, len(expected.labels), expected.uploaded, expected.received)


def _job(options: Options, model: CompiledModel, met: Stream, pool: bytes) -> Job:
    batch = options.batch if options.method in BATCHED else 1
    images = np.ascontiguousarray(met.images.transpose(0, 2, 3, 1), np.float32)
    samples = (images if model.input.dtype == "float32" else model.input.quantize(images)).tobytes()
    if options.method == "cema":
        return filter_job(options, samples, len(met))
    if options.method not in CHANGING:
        return Job("infer", samples, len(met) // batch)
    if options.method in BATCHED:
        rate = learning_rate(options)
        return Job("adapt", samples, len(met) // batch, warmup=0, parameters={"always": 1, "lr": rate})
    return Job(
        "adapt",
        samples,
        len(met),
        warmup=0,
        parameters={
            "classes": CLASSES,
            "cached": options.cached,
            "compared": min(COMPARED, options.cached),
            "weight": DETECTOR.weight,
            "threshold": DETECTOR.threshold,
            "settle": DETECTOR.settle,
            **({"affine": options.affine} if options.affine else {}),
        },
        blobs={"pool": pool},
    )


def _metered(options: Options, job: Job) -> Job:
    """The first passes; on demand, so many that an adaptation is among them, to whatever comes first."""
    each = len(job.blob) // job.count
    if options.method != "od":
        count = max(1, min(job.count, METERED // (options.batch if options.method in BATCHED else 1)))
        return replace(job, blob=job.blob[: count * each], count=count)
    count = min(job.count, options.cached + 8)
    at_once = {**job.parameters, "settle": 1, "threshold": 0.0}
    return replace(job, blob=job.blob[: count * each], count=count, parameters=at_once)


def _facts(options: Options, expected: Expectation, model: CompiledModel) -> tuple[str, ...]:
    widths = "-".join(map(str, NETWORKS.get(options.network, ())))
    network = f"network of widths {widths} trained on clean digits" if widths else f"your {options.network}"
    facts = [
        f"Method {options.method}, {network}, {options.precision}; unadapted, PyTorch has "
        f"{expected.source_accuracy:.2%} on this stream, in float32.",
        f"Arena {model.arena_bytes} bytes (lower bound {model.lower_bound_bytes}).",
        "Outputs, the places of adaptation and the variables afterwards are compared with the same stream in PyTorch.",
    ]
    if expected.integers is not None:
        facts[-1] = (
            "Outputs are compared with the integer reference to the bit, accuracy and logits with the same network in "
            "float32."
        )
    if options.method == "od":
        affine = options.affine
        places = ", ".join(f"{one} ({state})" for one, state in zip(expected.adapted, expected.states, strict=True))
        facts.append(
            f"On demand: adapts to {options.cached} samples after the entropy has left its base; here at "
            f"{places or 'no sample'}. Statistics{f', then an affine pass of rate {affine}' if affine else ' alone'}."
        )
    if options.method == "cema":
        facts.append(
            f"This computer is the host: network {options.foundation} teaches a copy of the device's. Uploaded of the "
            f"stream, by the device's filter '{options.upload}': {len(expected.uploaded)} of {len(expected.labels)}."
        )
    if options.method in BATCHED:
        facts.append(f"A pass takes {options.batch} samples: figures of the region 'inference' are those of a batch.")
    return tuple(facts)


def _lower_bound(model: CompiledModel) -> Figure:
    return Figure("arena.lower_bound", model.lower_bound_bytes, "bytes", "largest set of tensors live at once")


def _key(options: Options, digest: str) -> str:
    parts = {
        "data": digest,
        "options": json.dumps(asdict(options), sort_keys=True),
        **{package: version(package) for package in ("numpy", "torch")},
    }
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    return cached.key(parts, [*SOURCES, *compiler, *RUNTIME.rglob("*.[ch]")])


def _produce(options: Options, met: Stream, cache: Path) -> cached.Entry:
    import torch

    from lab.workloads.adaptation.methods import make, pool_bytes
    from lab.workloads.adaptation.reference import unchanged
    from lab.workloads.fitting import seeded

    network = source_network(options.network, cache)
    with seeded(SEED), progress.step(f"adaptation: {options.method} in PyTorch", quiet_below_s=2.0):
        made = make(options, network, torch.from_numpy(met.images), cache)
        source = unchanged(network, torch.from_numpy(met.images), len(met))
    document = {
        "model": model_to_json(made.model),
        "adapted": made.outcome.adapted,
        "states": made.outcome.states,
        "uploaded": made.outcome.uploaded,
        "received": made.outcome.received,
        "source_accuracy": float(np.mean(source.argmax(1) == met.labels)),
        "figures": [asdict(one) for one in made.figures],
    }
    integers = {} if made.integers is None else {"integers": made.integers}
    arrays: dict[str, cached.AnyArray] = {
        **integers,
        "outputs": made.outcome.outputs,
        "pool": np.frombuffer(pool_bytes(made.model, made.states), np.uint8),
        **{f"after {name}": value for name, value in made.outcome.variables.items()},
        **{f"before {name}": value for name, value in made.initial.items()},
    }
    return cached.Entry(json.dumps(document), arrays)
