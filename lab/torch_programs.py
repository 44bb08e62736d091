"""A workload in PyTorch on the device itself: the variant ``pytorch`` of every workload that offers a program.

The device runs the exported float32 module in its own Python (:mod:`lab.devices.python_payload`), over the same wire,
with the same regions and the same records as the native runner, so that both stand side by side as two variants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, get_args, runtime_checkable

import numpy as np

from lab.artifact import Accelerator, Artifact, MemoryUse
from lab.build import BUILD_ID_DIGITS
from lab.compiler.model import CompiledModel, TensorSpec
from lab.devices.base import Device
from lab.devices.python_payload import SCRIPT, PythonEnvironment
from lab.durable import replace_file
from lab.errors import ConfigError, NoAccelerator, NoPyTorch, WorkloadError
from lab.events import Job
from lab.workloads.base import FloatArray, Int8Array, Prepared, Score, TorchProgram, TrainingPlan

VARIANT = "pytorch"
ACCELERATOR = "accelerator"
ACCELERATORS: tuple[Accelerator, ...] = get_args(Accelerator)
MAX_ERROR = 1e-3
"""Most that outputs may differ from those of this computer's PyTorch, in parts of the largest output, and losses."""
MAX_ACCURACY_DROP = 0.05
"""How far accuracy may lie below that on this computer: training makes much of what is rounded differently."""


@runtime_checkable
class PythonRunning(Protocol):
    """A device with a Python of its own."""

    def python(self) -> PythonEnvironment:
        """What it is, checked.

        Raises:
            ConfigError: none is configured, or it lacks what is needed.
        """


def split_variant(variant: str) -> tuple[bool, str]:
    """Whether a variant asks for PyTorch, and the workload's own variant: ``pytorch`` or ``pytorch,image=16``."""
    first, _, rest = variant.partition(",")
    return (True, rest) if first == VARIANT else (False, variant)


def split_accelerator(variant: str) -> tuple[Accelerator, str]:
    """What PyTorch is to compute on, ``cpu`` where nothing is said, and the workload's own variant.

    Args:
        variant: ``accelerator=cuda,image=16``, from :func:`split_variant`.

    Raises:
        ConfigError: an accelerator of another name.
    """
    items = variant.split(",")
    asked = [item.partition("=")[2] for item in items if item.startswith(f"{ACCELERATOR}=")] or ["cpu"]
    found = next((one for one in ACCELERATORS if one == asked[-1]), None)
    if found is None:
        raise ConfigError(
            f"{ACCELERATOR}={asked[-1]} is not allowed", hint=f"one of {', '.join(ACCELERATORS)}"
        )
    return found, ",".join(item for item in items if not item.startswith(f"{ACCELERATOR}="))


def require_accelerator(device: Device, accelerator: Accelerator) -> None:
    """Refuse a device whose PyTorch cannot compute on an accelerator.

    Raises:
        NoPyTorch: it is a microcontroller or a phone, or no Python is configured.
        NoAccelerator: its PyTorch has none of this kind; says what was found there.
        ConfigError: its Python lacks what is needed.
    """
    if not isinstance(device, PythonRunning):
        raise NoPyTorch(
            f"{device.identity.name} has no Python that runs PyTorch",
            hint="the variant pytorch runs on Linux devices and on this computer (docs/linux.md)",
        )
    if accelerator == "cpu":
        return
    python = device.python()
    if accelerator not in python.accelerators:
        raise NoAccelerator(
            f"{device.identity.name} has no {accelerator} for PyTorch {python.packages.get('torch')}: found "
            f"{python.lacking}",
            hint="NVIDIA's driver and a PyTorch with CUDA in the device's Python, or accelerator=cpu (docs/linux.md)",
        )


def in_pytorch(
    workload: str, prepared: Prepared, accelerator: Accelerator = "cpu"
) -> tuple[Prepared, TorchProgram]:
    """A workload as PyTorch runs it on a device, in float32, with the program to be sent there.

    Raises:
        ConfigError: the workload has no such program.
    """
    if prepared.program is None:
        raise ConfigError(
            f"workload {workload!r} has no program for PyTorch on the device",
            hint="spoken-digits, digits-transfer, pockengine and roofline have; Prepared.program is what others lack",
        )
    program = prepared.program()
    outputs = np.ascontiguousarray(program.outputs)
    model = CompiledModel(
        name=prepared.model.name,
        sources={},
        input=TensorSpec(program.inputs.shape[1:], 1.0, 0, "float32"),
        output=TensorSpec(outputs.shape[1:], 1.0, 0, "float32"),
        layers=(),
        buffers=(),
        arena_bytes=0,
        lower_bound_bytes=0,
        digest=hashlib.sha256(program.archive).hexdigest(),
    )
    plan = None
    if program.training is not None:
        plan = TrainingPlan(program.training, lambda losses, _: _check_losses(program, losses))
    found = replace(
        prepared,
        model=model,
        parameters={**prepared.parameters, ACCELERATOR: accelerator},
        job=Job("infer", np.ascontiguousarray(program.inputs).tobytes(), len(program.inputs)),
        reference_outputs=outputs.view(np.int8).reshape(len(outputs), -1),
        check=lambda told: _check_outputs(program, told),
        facts=(*prepared.facts[:1], "The float32 module in PyTorch on the device, exported by torch.export."),
        figures=(),
        training=plan,
        layer_probe=None,
    )
    return found, program


def artifact_of(
    program: TorchProgram, name: str, board: str, cache: Path, accelerator: Accelerator = "cpu"
) -> Artifact:
    """The program as a file in the cache, named by its content and that of the runner that goes with it.

    Args:
        program: what the device is to run.
        name: of the model.
        board: what ``hello`` will say.
        cache: of the lab.
        accelerator: what it computes on there.
    """
    digest = hashlib.sha256(program.archive + SCRIPT.read_bytes()).hexdigest()
    path = cache / "programs" / digest / f"{name}.pt2"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, program.archive)
    none = MemoryUse(0, 0, 0, 0, 0)
    return Artifact(
        path, board, digest[:BUILD_ID_DIGITS], digest, "", "", none, runtime="pytorch", accelerator=accelerator
    )


def named(artifact: Artifact, device: Device) -> Artifact:
    """The artifact with what runs it on the device as its toolchain, for the record."""
    if artifact.runtime != "pytorch" or not isinstance(device, PythonRunning):
        return artifact
    python = device.python()
    title = python.accelerators.get(artifact.accelerator, "")
    return replace(artifact, toolchain=python.title, flags=f"{ACCELERATOR} {artifact.accelerator}: {title}")


def _check_outputs(program: TorchProgram, told: Int8Array) -> list[Score]:
    """Judge a device's outputs against those of PyTorch on this computer.

    Raises:
        WorkloadError: they differ by more than other kernels and another order of sums explain.
    """
    outputs = np.ascontiguousarray(told).view(np.float32).reshape(program.outputs.shape)
    error = float(np.max(np.abs(outputs - program.outputs)) / np.max(np.abs(program.outputs)))
    if program.training is None and not error <= MAX_ERROR:
        raise WorkloadError(
            f"PyTorch on the device differs from PyTorch on this computer by {error:.2g} of the largest output; "
            f"at most {MAX_ERROR:g} is allowed",
            hint="are both of the same version? the run's toolchain and `pip list` say",
        )
    right = float(np.mean(outputs.argmax(axis=1) == program.labels))
    reference = float(np.mean(program.outputs.argmax(axis=1) == program.labels))
    if right < reference - MAX_ACCURACY_DROP:
        raise WorkloadError(
            f"accuracy in PyTorch on the device is {right:.2%}, on this computer {reference:.2%}; at most "
            f"{MAX_ACCURACY_DROP:.0%} less is allowed"
        )
    return [Score("accuracy", right, reference), Score("output_error", error, 0.0)]


def _check_losses(program: TorchProgram, losses: FloatArray) -> list[Score]:
    """Judge a device's losses.

    Raises:
        WorkloadError: they differ from those of the same steps on this computer.
    """
    error = float(np.median(np.abs(losses - program.losses)))
    if not error <= MAX_ERROR:
        raise WorkloadError(
            f"losses on the device differ from those of PyTorch on this computer by {error:.2g} in the median; at most "
            f"{MAX_ERROR:g} is allowed"
        )
    tail = max(1, len(losses) // 10)
    parts: Mapping[str, slice] = {"loss.first": slice(0, tail), "loss.last": slice(-tail, None)}
    return [Score(name, float(losses[part].mean()), float(program.losses[part].mean())) for name, part in parts.items()]

