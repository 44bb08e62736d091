"""Inference with a model file: ``lab run model.tflite`` or ``lab run model.onnx``, without writing Python."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lab import progress
from lab.compiler.importers import import_model
from lab.compiler.model import CompiledModel, FloatArray
from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.workloads.base import EVERY_CLASS, Claim, Dataset, DeviceClass, Figure, Int8Array, Prepared, Score

SEED = 20
SAMPLES = 16
KEYS = ("inputs", "calibration", "seed", "samples")
PUBLISHED_RESERVES = {
    "kws_ref_model": ("kws01", 200 * 1024),
    "pretrainedResnet_quant": ("ic01", 100 * 1024),
    "vww_96_int8": ("vww01", 200 * 1024),
    "ad01_int8": ("ad01", 10 * 1024),
}
"""MLPerf Tiny's files: id, and the arena in bytes that the benchmark's reference code reserves."""


@dataclass(frozen=True)
class Choice:
    """A variant, read.

    Attributes:
        inputs: ``.npy`` with NHWC samples, int8 or float32; random ones where there is none.
        calibration: ``.npy`` with NHWC float32 inputs that set the ranges of a float32 file.
        seed, samples: of the random inputs.
    """

    inputs: Path | None = None
    calibration: Path | None = None
    seed: int = SEED
    samples: int = SAMPLES


class ModelFile:
    """A ``.tflite`` or ``.onnx`` file on random or given inputs.

    Variants: comma-separated ``inputs=FILE.npy``, ``calibration=FILE.npy``, ``seed=N``, ``samples=N``.

    Args:
        path: the file; the id as given on the command line.
    """

    family: str = "inference"
    systems: tuple[str, ...] = ()
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str = ""

    def __init__(self, path: str) -> None:
        self.id = path
        self.title = f"Inference with {Path(path).name}"
        self._path = Path(path)

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Import the file and compute what a device must answer.

        Raises:
            ConfigError: no such file or variant, a file that cannot be imported, or inputs of another shape.
        """
        choice = parse_variant(variant)
        calibration = None if choice.calibration is None else real_samples(load(choice.calibration), choice.calibration)
        name = "model_" + re.sub(r"[^A-Za-z0-9_]", "_", self._path.stem)
        with progress.step(f"importing {self._path.name}", quiet_below_s=2.0):
            model, integer = import_model(self._path, name=name, calibration=calibration)
        inputs, dataset = samples_of(choice, model)
        with progress.step("running the integer reference", quiet_below_s=2.0):
            outputs = integer.run_integer(inputs)
        data = self._path.read_bytes()
        litert = litert_outputs(data, inputs) if self._path.suffix == ".tflite" else None
        expectation = Expectation(outputs, litert)
        return Prepared(
            model=model,
            job=Job(name="infer", blob=inputs.tobytes(), count=len(inputs)),
            dataset=dataset,
            reference_outputs=outputs,
            seed=choice.seed,
            parameters={"model": self._path.name, "model_sha256": hashlib.sha256(data).hexdigest()},
            check=expectation.check,
            facts=facts(self._path, model, expectation),
            figures=figures(self._path, model),
        )


@dataclass(frozen=True)
class Expectation:
    """What a device must answer.

    Attributes:
        outputs: int8, shape (count, output bytes): the integer reference's.
        litert: the same from LiteRT's reference kernels; ``None`` as in :func:`litert_outputs`.
    """

    outputs: Int8Array
    litert: Int8Array | None

    def check(self, outputs: Int8Array) -> list[Score]:
        """Refuse outputs that differ from the integer reference; the share that equals LiteRT's is a score."""
        wrong = np.flatnonzero(np.any(outputs != self.outputs, axis=1))
        if len(wrong):
            first = int(wrong[0])
            raise WorkloadError(
                f"{len(wrong)} of {len(outputs)} outputs differ from the integer reference, first sample {first}; "
                "none may differ",
                hint="integer kernels agree to the bit everywhere: run the host build on the same sample",
            )
        if self.litert is None:
            return []
        return [Score("litert_agreement", equal_share(outputs, self.litert), equal_share(self.outputs, self.litert))]


def equal_share(first: Int8Array, second: Int8Array) -> float:
    """Share of samples whose outputs are equal in every byte."""
    return float(np.mean(np.all(first == second, axis=1)))


def parse_variant(variant: str) -> Choice:
    """Read ``key=value,key=value``.

    Raises:
        ConfigError: an unknown key or an impossible number.
    """
    pairs: dict[str, str] = {}
    for part in filter(None, variant.split(",")):
        key, separator, value = part.partition("=")
        if key not in KEYS or not separator or not value:
            raise ConfigError(f"a model file has no variant '{part}'", hint=f"use {', '.join(f'{k}=…' for k in KEYS)}")
        pairs[key] = value
    return Choice(
        inputs=Path(pairs["inputs"]) if "inputs" in pairs else None,
        calibration=Path(pairs["calibration"]) if "calibration" in pairs else None,
        seed=number(pairs, "seed", SEED, 0),
        samples=number(pairs, "samples", SAMPLES, 1),
    )


def number(pairs: Mapping[str, str], key: str, default: int, least: int) -> int:
    """A whole number of a variant."""
    text = pairs.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{key}={text}: a whole number of at least {least} is needed")
    return int(text)


def load(path: Path) -> Int8Array | FloatArray:
    """An int8 or float32 array from an ``.npy`` file."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ConfigError(f"{path} cannot be read as .npy: {error}", hint="write it with numpy.save") from error
    if (
        not isinstance(array, np.ndarray)
        or array.dtype not in (np.int8, np.float32)
        or array.ndim < 2
        or not len(array)
    ):
        raise ConfigError(f"{path} must hold an int8 or float32 array of samples (n, …)")
    return array


def real_samples(array: Int8Array | FloatArray, path: Path) -> FloatArray:
    """Samples that must be float32."""
    if array.dtype != np.float32:
        raise ConfigError(f"{path} holds {array.dtype}; calibration takes float32")
    return array.astype(np.float32)


def samples_of(choice: Choice, model: CompiledModel) -> tuple[Int8Array, Dataset]:
    """The inputs as int8, shape (n, …NHWC), and what the report says of them."""
    if choice.inputs is None:
        rng = np.random.default_rng(choice.seed)
        noise = rng.integers(-128, 128, (choice.samples, *model.input.shape), dtype=np.int8)
        note = f"Random bytes with seed {choice.seed}: they show arithmetic, speed and memory, not accuracy."
        return noise, Dataset("random bytes", hashlib.sha256(noise.tobytes()).hexdigest(), len(noise), note)
    array = load(choice.inputs)
    if math.prod(array.shape[1:]) != model.input.size:
        raise ConfigError(
            f"{choice.inputs} holds samples of shape {array.shape[1:]}; the model takes NHWC {model.input.shape}"
        )
    shaped = array.reshape(len(array), *model.input.shape)
    inputs = shaped.astype(np.int8) if shaped.dtype == np.int8 else model.input.quantize(shaped.astype(np.float32))
    return inputs, Dataset(choice.inputs.name, hashlib.sha256(inputs.tobytes()).hexdigest(), len(inputs))


def litert_outputs(data: bytes, inputs: Int8Array) -> Int8Array | None:
    """What LiteRT's reference kernels compute; ``None`` where they compute nothing to compare with.

    That is: it is not installed, it refuses the file, or the file is not int8 outside.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        return None
    try:
        interpreter = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError):
        # It wants more of a file than the importer, such as a bias that may be left out elsewhere.
        return None
    source, target = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    if source["dtype"] is not np.int8 or target["dtype"] is not np.int8:
        return None
    outputs: list[Int8Array] = []
    for sample in inputs:
        interpreter.set_tensor(source["index"], sample.reshape(source["shape"]))
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(target["index"]).reshape(1, -1).copy())
    return np.concatenate(outputs)


def figures(path: Path, model: CompiledModel) -> tuple[Figure, ...]:
    """What the plan needs, beside what others reserve."""
    found = [
        Figure("macs", float(model.macs), "MAC", "multiply-accumulates of one inference"),
        Figure("arena", float(model.arena_bytes), "bytes", "planned arena"),
        Figure("arena.lower_bound", float(model.lower_bound_bytes), "bytes", "largest set of tensors live at once"),
    ]
    if path.stem in PUBLISHED_RESERVES:
        benchmark, reserve = PUBLISHED_RESERVES[path.stem]
        note = f"what MLPerf Tiny's reference code reserves for {benchmark}"
        found.append(Figure("arena.published_reserve", float(reserve), "bytes", note))
    return tuple(found)


def facts(path: Path, model: CompiledModel, expectation: Expectation) -> tuple[str, ...]:
    """Sentences for the report."""
    told = [
        f"{path.name}: {len(model.layers)} layers, {model.macs} MACs, {model.weights_bytes} bytes of constants.",
        f"Arena {model.arena_bytes} bytes, lower bound {model.lower_bound_bytes} bytes.",
        "Outputs must equal the integer reference to the bit.",
    ]
    if expectation.litert is not None:
        share = equal_share(expectation.outputs, expectation.litert)
        told.append(f"The integer reference equals LiteRT's reference kernels to the bit on {share:.2%} of the inputs.")
    return tuple(told)
