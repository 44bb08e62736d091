"""TinyTL: biases and lite residual modules of a frozen network. Cai et al., "TinyTL", 2020.

A weight's gradient needs its layer's input, a bias's does not: what is kept for backward falls by an order of magnitude
where all weights are frozen and only biases change. What that loses, small branches beside each block win back: they
work at half the resolution, so that what they keep is little, and begin at zero, so that nothing is lost at first.
Batch norm is folded into the frozen convolutions; the branches normalise by groups, which a batch of one suits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.options import one_of, read_sized
from lab.workloads.training import own_images, transfer_tasks
from lab.workloads.training.agreement import Limits
from lab.workloads.training.arms import Arm, prepare_arm
from lab.workloads.training.transfer_tasks import Schedule
from lab.workloads.training.turned_digits import SEED

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.layer_costs import LayerCost
    from lab.compiler.update_schemes import UpdateScheme

Update: TypeAlias = Literal["lite+bias", "lite", "bias", "last", "full"]
LIMITS = Limits(loss=0.02, update=0.25)
"""A last bit can put a value on the other side of a ReLU's corner. Groups of few values, as the branches have them,
make much of it, and so does full training: seen are 1e-6 of the way over 64 steps, and 0.03 to 0.18 after 240."""
LITE = ".lite."
REDUNDANT = ".lite.last.bias"
"""Adds what the bias of the block's last convolution adds; the paper freezes it where biases change."""
FULL, LAST, BIAS = "update=full,rate=0.01", "update=last,rate=0.16", "update=bias,rate=0.04"
"""Each at its own best rate, by the grid of :mod:`lab.workloads.training.rates`."""


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what.

    Attributes:
        update: which parameters change; ``lite+bias`` and ``lite`` are those of a network with branches.
        rate: the best at which two machines come to the same variables.
    """

    update: Update = "lite+bias"
    rate: float = 0.05

    @property
    def branched(self) -> bool:
        """Whether the network has branches."""
        return self.update.startswith("lite")


PAPER = Variant("paper", "proxylessnas", "", own_images.SIDE, samples=1000, rate=0.02, evaluated=500)
_UPDATE = one_of("update", get_args(Update))
SIZES = {"ci": (Variant(), (*transfer_tasks.ALLOWED, _UPDATE)), "paper": (PAPER, (*own_images.BRANCHED, _UPDATE))}


def parse(text: str) -> Variant:
    """A variant from ``image=32,update=bias``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("tinytl", SIZES, text)


def scheme_of(update: Update, layers: tuple[LayerCost, ...]) -> UpdateScheme:
    """The update in the numbers of convolutions and linear layers."""
    from lab.compiler.layer_costs import weighted
    from lab.compiler.update_schemes import UpdateScheme, full_update

    trunk = [layer.name for layer in weighted(layers)][:-1]
    branches = {number: 1.0 for number, name in enumerate(trunk) if LITE in name}
    schemes = {
        "lite+bias": UpdateScheme(branches, biases=len(trunk)),
        "lite": UpdateScheme(branches),
        "bias": UpdateScheme(biases=len(trunk)),
        "last": UpdateScheme(),
        "full": full_update(layers),
    }
    return schemes[update]


def selection_of(update: Update, network: nn.Module) -> Mapping[str, None]:
    """The parameters that change, by name."""
    names = [name for name, _ in network.named_parameters()]
    classifier = {"classifier.weight", "classifier.bias"}
    biases = {name for name in names if name.endswith(".bias")}
    branches = {name for name in names if LITE in name}
    chosen = {
        "lite+bias": branches | biases,
        "lite": branches,
        "bias": biases,
        "last": set[str](),
        "full": set(names),
    }[update] | classifier
    if update == "lite+bias":
        chosen -= {name for name in chosen if name.endswith(REDUNDANT)}
    return dict.fromkeys(name for name in names if name in chosen)


def _claims() -> tuple[Claim, ...]:
    paper = "Cai et al. 2020"
    small = "batch 1 and maps of 8×8: parameters and the working buffers, the same in both, are a larger part."
    profiler = "By the paper's own profiler, at its batch of 8 or more"
    return (
        Claim("S052", f"{profiler}, training needs a sixth of the memory of full fine-tuning.",
              f"{paper}, abstract: up to 6.5 times", "memory.m2.batch100", FULL, "reduction", 6.5,
              "ours at batch 100; the largest pair of a layer's input and output, the same in both, is two "
              "thirds of what DigitsMB needs", at_least=3.0),
        Claim("S052", "The same at batch 1.", f"{paper}, section on batch 1", "memory.m2", FULL, "reduction",
              None, small, at_least=1.5),
        Claim("S052", "The same as the firmware has it: arena of a step and variables.", f"{paper}, abstract",
              "memory.m4", FULL, "reduction", 6.5, small + " Full training applies each gradient at once here "
              "and keeps no copy of it.", at_least=1.3),
        Claim("S052", "What a step has written of the arena.", f"{paper}, abstract", "peak_ram.activations",
              FULL, "reduction", 6.5, "the float32 gradients of the expanded maps, which the paper's profiler "
              "leaves out, are in both", at_least=2.0),
        Claim("S052", "Backward takes fewer multiply-accumulates than full training's.",
              "Kwon et al. 2024 (S007), table 2, MCUNet: 44.9 M to 26.4 M", "macs.backward", FULL, "reduction",
              1.7, "the branches are a larger part of a small network", at_least=1.3),
        Claim("S052", "What a step takes: it saves memory, not work.", "no figure", "instructions", FULL,
              "reduction", None, "the paper measures no device. Branches and their norms cost more in forward than the "
              "weight gradients of the blocks save in backward", region="train.step"),
        Claim("S052", "And its energy.", "no figure", "energy", FULL, "reduction", None, "as above",
              region="train.step"),
        Claim("S052", "Accuracy is far above that of the last layer alone.",
              f"{paper}, abstract: 33.8 to 34.1 points", "accuracy", LAST, "difference", 0.338,
              "240 steps of plain SGD instead of 50 epochs of Adam", at_least=0.05),
        Claim("S052", "Lite residuals win back what biases alone lose.", f"{paper}, abstract: +11.6 points on Cars",
              "accuracy", BIAS, "difference", 0.116,
              "each at its own best rate; one task, 240 steps, and 200 images tell no difference this small"),
        Claim("S052", "For little more memory.", f"{paper}, section 3.2: +3.8 %", "memory.m2.batch100", BIAS,
              "factor", 1.038, "the blocks of DigitsMB widen by 2.7 to 4 where the paper's widen by 6"),
        Claim("S052", "Accuracy is near that of full fine-tuning.", f"{paper}, abstract: little loss", "accuracy",
              FULL, "difference", None, "each at its own best rate; 200 images tell no difference this small"),
    )  # fmt: skip


class TinyTL:
    """The workload. Variants: ``image=16|32|48|64``, ``update=lite+bias|lite|bias|last|full``, ``samples=``,
    ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also ``data=`` and
    ``network=``.
    """

    id: str = "tinytl"
    title: str = "Lite residual modules and biases of a frozen network (TinyTL), on turned digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S052",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = (FULL, LAST, BIAS)
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        from lab.workloads.networks import lite_residual

        chosen = parse(variant)
        return prepare_arm(
            self.id, chosen.update, chosen, partial(arm_of, chosen), cache,
            sources=(Path(__file__), Path(lite_residual.__file__)), must_learn=chosen.branched, limits=LIMITS,
        )  # fmt: skip


def arm_of(variant: Variant, backbone: nn.Module, example: torch.Tensor) -> Arm:
    """The network with branches, or as it is."""
    network, layers = grown(variant, backbone, example)
    return Arm(network, layers, scheme_of(variant.update, layers), selection_of(variant.update, network))


def grown(variant: Variant, backbone: nn.Module, example: torch.Tensor) -> tuple[nn.Module, tuple[LayerCost, ...]]:
    """The network as it is compiled, and its layers, as the definitions of memory read them."""
    from lab.compiler.layer_costs import layer_list
    from lab.workloads.fitting import seeded
    from lab.workloads.networks.lite_residual import Upsample, with_lite_residuals

    if not variant.branched:
        return backbone, layer_list(backbone, example)
    with seeded(SEED):
        network = with_lite_residuals(backbone)
    twin = with_lite_residuals(backbone, repeat=Upsample)
    twin.load_state_dict(network.state_dict())
    return network, layer_list(twin, example)


WORKLOAD = TinyTL()
