"""An arm for PyTorch on the device itself, as :mod:`lab.torch_programs` runs it: the same steps by autograd."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from lab.workloads import cache as cached
from lab.workloads.base import TorchProgram
from lab.workloads.training import arms, autograd_program
from lab.workloads.training.arms import ArmOf
from lab.workloads.training.autograd_program import Steps
from lab.workloads.training.transfer import cache_key
from lab.workloads.training.transfer_tasks import Schedule, Task, task_of
from lab.workloads.training.turned_digits import SEED


def torch_program(workload: str, variant: Schedule, arm: ArmOf, cache: Path, sources: tuple[Path, ...]) -> TorchProgram:
    """The arm's module as ``torch.export`` saves it, with what PyTorch on this computer comes to; cached.

    Args:
        workload, variant, arm, cache, sources: as of :func:`lab.workloads.training.arms.prepare_arm`; whole tensors
            change, since PyTorch knows no part of one.

    Raises:
        ConfigError: no data.
    """
    task = task_of(variant, cache)
    own = (Path(one) for one in (__file__, arms.__file__, autograd_program.__file__))
    key = cache_key(asdict(variant), task.dataset.digest, *task.sources, *sources, *own)
    entry = cached.obtain(cache / "workloads", f"{workload}-torch", key, lambda: _produce(workload, variant, task, arm))
    return autograd_program.program(entry, variant.epochs, variant.rate, SEED)


def _produce(workload: str, variant: Schedule, task: Task, make: ArmOf) -> cached.Entry:
    data = task.data()
    arm = make(task.backbone(data), data.turned[:1])
    steps = Steps(data.chosen(variant.samples), data.held_out[: variant.evaluated], variant.epochs, variant.rate, SEED)
    return autograd_program.produce(workload, arm.network, arm.selection, data.turned, data.labels, steps)
