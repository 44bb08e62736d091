"""Sparse update with quantisation-aware scaling (MCUNetV3): Lin et al., "On-Device Training Under 256KB Memory", 2022.

The forward pass and the weights are int8, gradients float32. What changes is chosen beforehand: the biases of the last
six layers, half of the input channels of the first pointwise convolution in the last two blocks, and the classifier.
The gradient of an int8 weight is divided by its scale squared, so that a learning rate of float32 holds; the update is
written back to int8 in place with stochastic rounding. Backward ends at the earliest layer that changes, and each
gradient is applied as soon as it exists, so that none of them is kept.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads import cache as cached
from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Figure, Prepared
from lab.workloads.options import Allowed, one_of, read_sized
from lab.workloads.training import memory_figures, own_images, transfer_tasks
from lab.workloads.training.agreement import Precision
from lab.workloads.training.digits_transfer import Update
from lab.workloads.training.digits_transfer import scheme_of as digits_scheme
from lab.workloads.training.transfer import (
    Transfer,
    cache_key,
    from_entry,
    prepared_of,
    to_entry,
    train_on_host,
)
from lab.workloads.training.transfer_tasks import Schedule, Task, task_of
from lab.workloads.training.turned_digits import CALIBRATION_IMAGES, SEED, Data

if TYPE_CHECKING:
    from torch import nn

    from lab.compiler.layer_costs import LayerCost
    from lab.compiler.update_schemes import UpdateScheme

Scheme: TypeAlias = Literal["", "49kb", "99kb", "148kb"]
CALIBRATED = CALIBRATION_IMAGES // 4
FULL, LAST, BIAS = "update=full", "update=last,rate=0.16", "update=bias,rate=0.04"
FLOAT = "precision=float32,rate=0.025"
"""Each at its own best rate, by the grid of :mod:`lab.workloads.training.rates`, as far as rounding allows: 0.01 is as
good for full training, and there the losses of two machines part; at 0.02 a change of 1e-7 in float32 does it."""


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what.

    Attributes:
        update: which parameters change.
        scheme: with ``size=paper``, which of the published sparse updates ``update=sparse`` is, by its extra memory.
        precision: ``int8``, or ``float32`` throughout.
    """

    update: Update = "sparse"
    scheme: Scheme = ""
    precision: Precision = "int8"


PAPER = Variant("paper", "mcunet", "", own_images.SIDE, samples=1000, evaluated=500, scheme="49kb")
_OWN: tuple[Allowed, ...] = (one_of("update", get_args(Update)), one_of("precision", get_args(Precision)))
SIZES = {
    "ci": (Variant(), (*transfer_tasks.ALLOWED, one_of("scheme", ("",), "with size=paper alone"), *_OWN)),
    "paper": (PAPER, (*own_images.ALLOWED, one_of("scheme", own_images.SCHEMES), *_OWN)),
}


def parse(text: str) -> Variant:
    """A variant from ``image=32,update=full``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("sparse-update", SIZES, text)


def scheme_of(variant: Variant, layers: tuple[LayerCost, ...]) -> UpdateScheme:
    """The update in numbers of layers."""
    from lab.compiler.layer_costs import weighted
    from lab.compiler.update_schemes import UpdateScheme, full_update

    if variant.size == "ci":
        return digits_scheme(variant.update)
    if variant.update == "sparse":
        return own_images.sparse_scheme(variant.network, variant.scheme)
    biases = UpdateScheme(biases=len(weighted(layers)) - 1)
    return {"full": full_update(layers), "last": UpdateScheme(), "bias": biases}[variant.update]


def _claims() -> tuple[Claim, ...]:
    small = "DigitsMB has 14 layers and maps of 8×8, MCUNet 43 and up to 64×64: less of the arena is saved activations."
    paper, others = "Lin et al. 2022", "Kwon et al. 2024 (S007), table 1, SparseUpdate on MCUNet"
    return (
        Claim("S214", "Sparse update and immediate updates need a twentieth of the memory of full training.",
              f"{paper}, figure of peak memory: MCUNet 3650 to 173 kB", "memory.m4", FULL, "reduction", 21.0,
              small + " Our full update is applied immediately as well, theirs is not.", at_least=2.0),
        Claim("S214", "The same, as the device has it: what a step has written of the arena.",
              f"{paper}, figure of peak memory", "peak_ram.activations", FULL, "reduction", 21.0, small,
              at_least=1.4),
        Claim("S214", "The same with variables, stack, code's data and the runner.", f"{paper}, figure of peak memory",
              "peak_ram", FULL, "reduction", 21.0, "the runner's buffers are the same in both; under Linux "
              "it is a process, of which training is the least"),
        Claim("S214", "Masks, saved inputs and updated weights, by the analysis that its search uses.",
              f"{paper}, scheme of 49 kB against all layers, computed from the repository's lists", "memory.m1",
              FULL, "reduction", 28.1, small, at_least=5.0),
        Claim("S214", "Backward takes a quarter of the multiply-accumulates of full training.",
              f"{paper}, computed from the repository's lists for the scheme of 49 kB", "macs.backward", FULL,
              "reduction", 4.4, small, at_least=2.5),
        Claim("S214", "Which pays off in what the core executes in backward.",
              f"{paper}, figure of latency (TTE sparse against TFLite sparse and full on an STM32F746)", "instructions",
              FULL, "reduction", None, "the paper's 23 to 25 times compare another framework, which no "
              "microcontroller of ours runs; this is the share of the scheme alone", region="train.backward",
              at_least=2.0),
        Claim("S214", "And in the energy of a step.", "no figure", "energy", FULL, "reduction", None,
              "the paper measures none; forward is the same in both", region="train.step", at_least=1.1),
        Claim("S214", "Accuracy is near that of full training.", f"{others}: 64.3 % against 66.9 %", "accuracy",
              FULL, "difference", -0.026, "one task of ten classes and 240 steps of one sample; the table "
              "has the mean of nine data sets", at_least=-0.1),
        Claim("S214", "It beats updating the last layer alone.", f"{others}: 64.3 % against 54.6 %", "accuracy",
              LAST, "difference", 0.097, "a quarter turn changes what all layers see; 490 parameters of "
              "the last one cannot make up for it", at_least=0.05),
        Claim("S214", "It is no worse than biases alone.", f"{paper}, section 3.2", "accuracy", BIAS,
              "difference", None, "the cheapest scheme that reaches all layers; on so few steps it may well keep up"),
        Claim("S214", "Quantisation-aware scaling keeps the accuracy of float32 training at its learning rate.",
              f"{paper}, figure of QAS: 86.9 % against 86.0 %", "accuracy", FLOAT, "difference", 0.009,
              "plain SGD with one sample a step, weights that stay int8 in memory, and a quarter more rate in float32",
              at_least=-0.1),
        Claim("S214", "A good scheme trains within the arena of inference.",
              f"{paper}, figure of peak memory; 160 kB in both by our plan of its graph", "arena", "", "factor", 1.0,
              "the maps of DigitsMB are small: two float32 gradients of an expanded map outgrow them",
              against=("arena.inference", "run")),
    )  # fmt: skip


class SparseUpdate:
    """The workload. Variants: ``image=16|32|48|64``, ``update=sparse|full|last|bias``, ``precision=int8|float32``,
    ``samples=``, ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also
    ``data=``, ``network=`` and ``scheme=``.
    """

    id: str = "sparse-update"
    title: str = "Sparse update in int8 with quantisation-aware scaling (MCUNetV3), on turned digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S214",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = (FULL, LAST, BIAS, FLOAT)
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        task = task_of(chosen, cache)
        key = cache_key(
            asdict(chosen), task.dataset.digest, *task.sources, Path(__file__), Path(memory_figures.__file__)
        )
        entry = cached.obtain(cache / "workloads", self.id, key, lambda: _produce(chosen, task))
        figures = tuple(Figure(**one) for one in json.loads(entry.document)["figures"])
        return prepared_of(
            from_entry(entry),
            f"{task.title}, {chosen.precision}, update: {chosen.update};",
            task.dataset,
            {name: str(value) for name, value in asdict(chosen).items()},
            precision=chosen.precision, epochs=chosen.epochs, rate=chosen.rate, seed=SEED,
            target_accuracy=chosen.target, figures=figures, must_learn=chosen.update == "sparse",
        )  # fmt: skip


def transfer_of(variant: Variant, data: Data, network: nn.Module) -> tuple[Transfer, tuple[LayerCost, ...]]:
    """The steps that a variant takes and the images that are asked afterwards; and the network's layers."""
    from lab.compiler.layer_costs import layer_list
    from lab.compiler.update_schemes import selection

    layers = layer_list(network, data.turned[:1])
    trained_on, asked = data.chosen(variant.samples), data.held_out[: variant.evaluated]
    labels, calibration = data.labels.numpy(), data.calibration()
    transfer = Transfer(
        name="sparse-update", network=network, selection=selection(scheme_of(variant, layers), layers),
        precision=variant.precision, samples=data.turned[trained_on], labels=labels[trained_on],
        asked=data.turned[asked], answers=labels[asked],
        calibration=calibration[:: max(1, len(calibration) // CALIBRATED)], epochs=variant.epochs, rate=variant.rate,
        seed=SEED,
    )  # fmt: skip
    return transfer, layers


def _produce(variant: Variant, task: Task) -> cached.Entry:
    data = task.data()
    transfer, layers = transfer_of(variant, data, task.backbone(data))
    trained = train_on_host(transfer)
    figures = memory_figures.memory_figures(layers, scheme_of(variant, layers), trained.training)
    return to_entry(trained, {"figures": [asdict(one) for one in figures]})


WORKLOAD = SparseUpdate()
