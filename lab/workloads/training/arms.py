"""What the methods share that train a network in float32, and the arms beside them.

An arm is a network, the parameters that change, and how. All arms of a run take the same steps from the same samples.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from lab.workloads import cache as cached
from lab.workloads.base import Figure, Prepared
from lab.workloads.training import memory_figures, transfer_tasks
from lab.workloads.training.agreement import Limits
from lab.workloads.training.transfer import (
    Transfer,
    cache_key,
    from_entry,
    prepared_of,
    to_entry,
    train_on_host,
)
from lab.workloads.training.transfer_tasks import Schedule, Task, task_of
from lab.workloads.training.turned_digits import SEED, Data

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.layer_costs import LayerCost
    from lab.compiler.update_schemes import UpdateScheme

PLAIN = ("full", "last", "bias")
"""Arms that any network has: everything, the classifier, and all biases with it."""


@dataclass(frozen=True)
class Arm:
    """What one variant trains.

    Attributes:
        network: as it is compiled.
        layers: its layers, as the definitions of memory read them.
        scheme: the update in numbers of layers.
        selection: the same by names of parameters.
        patches: convolutions whose gradients are computed on patches.
        figures: beside those of memory.
        immediate: whether each gradient is applied where it arises, rather than all at the end of the step.
    """

    network: nn.Module
    layers: tuple[LayerCost, ...]
    scheme: UpdateScheme
    selection: Mapping[str, None]
    patches: Mapping[str, int] = field(default_factory=dict)
    figures: tuple[Figure, ...] = ()
    immediate: bool = True


ArmOf: TypeAlias = "Callable[[nn.Module, torch.Tensor], Arm]"
"""Makes an arm of a pre-trained network, batch norm folded, and an example of its input."""


def plain_arm(update: str, network: nn.Module, example: torch.Tensor) -> Arm:
    """One of :data:`PLAIN`, of the pre-trained network itself.

    Raises:
        ValueError: another one.
    """
    from lab.compiler.layer_costs import layer_list, weighted
    from lab.compiler.update_schemes import UpdateScheme, full_update

    layers = layer_list(network, example)
    schemes = {
        "full": full_update(layers),
        "last": UpdateScheme(),
        "bias": UpdateScheme(biases=len(weighted(layers)) - 1),
    }
    if update not in schemes:
        raise ValueError(f"update={update} is none of {', '.join(schemes)}")
    return Arm(network, layers, schemes[update], selected(schemes[update], network, layers))


def selected(scheme: UpdateScheme, network: nn.Module, layers: tuple[LayerCost, ...]) -> Mapping[str, None]:
    """The parameters that a scheme of whole layers changes, in the network's order."""
    from lab.compiler.update_schemes import selection

    chosen = selection(scheme, layers)
    return dict.fromkeys(name for name, _ in network.named_parameters() if name in chosen)


def prepare_arm(
    workload: str,
    update: str,
    variant: Schedule,
    arm: ArmOf,
    cache: Path,
    *,
    sources: tuple[Path, ...],
    must_learn: bool,
    limits: Limits,
) -> Prepared:
    """Pre-train, compile and train one arm on this computer, or read all of it from the cache.

    Args:
        workload: id.
        update: what changes, for the facts.
        variant: a dataclass of all options.
        arm: makes the arm; called where nothing is cached.
        cache: the lab's.
        sources: files that the arm depends on, besides the compiler's and those of the task.
        must_learn, limits: as of :class:`lab.workloads.training.transfer.Expectation`.

    Raises:
        ConfigError: no data.
        CompileError: the arm cannot be compiled so.
    """
    task, options = task_of(variant, cache), asdict(variant)
    own = (Path(__file__), Path(memory_figures.__file__), Path(transfer_tasks.__file__))
    key = cache_key(options, task.dataset.digest, *task.sources, *sources, *own)
    entry = cached.obtain(cache / "workloads", workload, key, lambda: _produce(workload, variant, task, arm, limits))
    figures = tuple(Figure(**one) for one in json.loads(entry.document)["figures"])
    return prepared_of(
        from_entry(entry), f"{task.title}, float32, update: {update};", task.dataset,
        {name: str(value) for name, value in options.items()}, precision="float32", epochs=variant.epochs,
        rate=variant.rate, seed=SEED, target_accuracy=variant.target, figures=figures, must_learn=must_learn,
        limits=limits,
    )  # fmt: skip


def transfer_of(workload: str, variant: Schedule, data: Data, arm: Arm) -> Transfer:
    """The steps that an arm takes, and the images that are asked afterwards."""
    trained_on, asked = data.chosen(variant.samples), data.held_out[: variant.evaluated]
    labels = data.labels.numpy()
    return Transfer(
        name=workload, network=arm.network, selection=arm.selection, precision="float32",
        samples=data.turned[trained_on], labels=labels[trained_on], asked=data.turned[asked],
        answers=labels[asked], calibration=data.turned[:0], epochs=variant.epochs, rate=variant.rate, seed=SEED,
        patches=arm.patches, immediate=arm.immediate,
    )  # fmt: skip


def _produce(workload: str, variant: Schedule, task: Task, make: ArmOf, limits: Limits) -> cached.Entry:
    data = task.data()
    arm = make(task.backbone(data), data.turned[:1])
    trained = train_on_host(replace(transfer_of(workload, variant, data, arm), limits=limits))
    figures = (*memory_figures.memory_figures(arm.layers, arm.scheme, trained.training), *arm.figures)
    return to_entry(trained, {"figures": [asdict(one) for one in figures]})
