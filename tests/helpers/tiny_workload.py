"""A workload that needs no training: a hand-written model with a closed form, on any board in a second.

Tests register it as ``tiny`` under the name of this module. Its variants fail on purpose: ``refused`` by its own check.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np

import lab.workloads
from lab.compiler.model import BufferPlan, CompiledModel, LayerInfo, TensorSpec
from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.workloads.base import Claim, Dataset, DeviceClass, Int8Array, Prepared, Score

NAME = "tiny"
SAMPLES = 8
SIZE = 64
_MODEL = Path(__file__).resolve().parent.parent / "data" / "tiny_model"


def register() -> None:
    """Make the workload known to this process."""
    lab.workloads._REGISTRY[NAME] = __name__


def expected(inputs: Int8Array) -> Int8Array:
    """What the model yields: ``(input ^ 0x55) + offsets``, modulo 256."""
    offsets = np.zeros(SIZE, np.int8)
    offsets[:8] = np.arange(8)
    return ((inputs ^ 0x55) + offsets).astype(np.int8)


def model() -> CompiledModel:
    """The hand-written model as the compiler would yield it."""
    sources = {path.name: path.read_text(encoding="utf-8") for path in sorted(_MODEL.iterdir())}
    spec = TensorSpec((SIZE,), 1.0, 0)
    layers = tuple(LayerInfo(name, name, SIZE, SIZE, (SIZE,), (SIZE,)) for name in ("xor", "offset"))
    digest = sha256("".join(sources.values()).encode()).hexdigest()
    return CompiledModel(NAME, sources, spec, spec, layers, (BufferPlan("xor", 0, SIZE, 0, 1),), 96, SIZE, digest)


class Tiny:
    """See the module."""

    id = NAME
    title = "Exclusive or and offset"
    family = "inference"
    systems: tuple[str, ...] = ()
    classes: tuple[DeviceClass, ...] = ("mcu", "linux", "phone", "host")
    baselines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Random bytes with a fixed seed."""
        if variant not in ("", "refused"):
            raise ConfigError(f"tiny has no variant {variant!r}")
        inputs = np.random.default_rng(5).integers(-128, 128, (SAMPLES, SIZE), dtype=np.int8)

        def check(outputs: Int8Array) -> list[Score]:
            if variant == "refused":
                raise WorkloadError("accuracy 0.1 is below its floor of 0.9")
            return [Score("accuracy", 1.0, 1.0)]

        return Prepared(
            model=model(),
            job=Job("infer", inputs.tobytes(), SAMPLES),
            dataset=Dataset("noise", sha256(inputs.tobytes()).hexdigest(), SAMPLES),
            reference_outputs=expected(inputs),
            seed=5,
            parameters={},
            check=check,
        )


WORKLOAD = Tiny()
