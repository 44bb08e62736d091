"""Rep-Net: a small network beside a frozen backbone exchanges features with it. Yang, Rakin and Fan, "Rep-Net:
Efficient On-Device Learning via Feature Reprogramming", CVPR 2022.

The backbone's weights are frozen, so that backward keeps none of its inputs; a network of three small modules reads
the image and the backbone's maps, and what it yields is added to them. Gradients pass the frozen blocks between the
modules, which takes masks of one bit. TinyTL, with a branch beside every block, runs as a baseline on the same task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Figure, Prepared
from lab.workloads.options import one_of, read_sized
from lab.workloads.training import own_images, tinytl, transfer_tasks
from lab.workloads.training.arms import PLAIN, Arm, plain_arm, prepare_arm
from lab.workloads.training.transfer_tasks import Schedule
from lab.workloads.training.turned_digits import SEED

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.layer_costs import LayerCost
    from lab.compiler.update_schemes import UpdateScheme

Update: TypeAlias = Literal["rep+bias", "rep", "tinytl", "full", "last", "bias"]
SIDE = "rep."
"""Where the names of the side network's parameters begin."""
TINYTL, FULL, LAST, BIAS = "update=tinytl,rate=0.05", tinytl.FULL, tinytl.LAST, tinytl.BIAS
"""Each at its own best rate, by the grid of :mod:`lab.workloads.training.rates`."""


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what.

    Attributes:
        update: ``rep`` and ``rep+bias`` train the side network, the latter the backbone's biases too, whose rate is
            lower in the paper: one rate for both parts is the biases' and too low for the modules. ``tinytl`` is lite
            residuals and biases.
    """

    update: Update = "rep"
    rate: float = 0.05


PAPER = Variant(
    "paper", own_images.MOBILE, "", own_images.MOBILE_SIDE, samples=200, rate=0.01, evaluated=100, update="rep+bias"
)
_UPDATE = one_of("update", get_args(Update))
SIZES = {
    "ci": (Variant(), (*transfer_tasks.ALLOWED, _UPDATE)),
    "paper": (PAPER, (*own_images.BRANCHED, one_of("network", (own_images.MOBILE,)), _UPDATE)),
}


def parse(text: str) -> Variant:
    """A variant from ``update=rep``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("rep-net", SIZES, text)


def scheme_of(update: Update, layers: tuple[LayerCost, ...]) -> UpdateScheme:
    """The update of a network with its side network, in numbers of layers."""
    from lab.compiler.layer_costs import weighted
    from lab.compiler.update_schemes import UpdateScheme

    trunk = [layer.name for layer in weighted(layers)][:-1]
    side = {number: 1.0 for number, name in enumerate(trunk) if name.startswith(SIDE)}
    return UpdateScheme(side, biases=len(trunk) if update == "rep+bias" else 0)


def selection_of(update: Update, network: nn.Module) -> Mapping[str, None]:
    """The parameters that change, by name."""
    chosen = ("classifier.", SIDE)
    names = [name for name, _ in network.named_parameters()]
    biases = update == "rep+bias"
    return dict.fromkeys(name for name in names if name.startswith(chosen) or (biases and name.endswith(".bias")))


def arm_of(variant: Variant, backbone: nn.Module, example: torch.Tensor) -> Arm:
    """The network with its side network, with lite residuals, or as it is."""
    from lab.workloads.fitting import seeded

    if variant.update in PLAIN:
        return plain_arm(variant.update, backbone, example)
    if variant.update == "tinytl":
        other = tinytl.Variant(image=variant.image)
        grown, listed = tinytl.grown(other, backbone, example)
        return Arm(grown, listed, tinytl.scheme_of(other.update, listed), tinytl.selection_of(other.update, grown))
    from lab.compiler.layer_costs import layer_list, weighted
    from lab.workloads.networks.lite_residual import Upsample
    from lab.workloads.networks.rep_net import DIGITS_MB, PROXYLESSNAS_MOBILE, with_rep_net

    connectors = PROXYLESSNAS_MOBILE if variant.network == own_images.MOBILE else DIGITS_MB
    with seeded(SEED):
        network = with_rep_net(backbone, connectors)
    layers = layer_list(with_rep_net(backbone, connectors, repeat=Upsample), example)
    side = sum(layer.macs for layer in weighted(layers) if layer.name.startswith(SIDE))
    backbone_macs = sum(layer.macs for layer in weighted(layers)) - side
    figures = (
        Figure("macs.side", side, "MACs", "forward of the side network"),
        Figure("macs.backbone", backbone_macs, "MACs", "forward of the frozen backbone and the classifier"),
    )
    return Arm(
        network, layers, scheme_of(variant.update, layers), selection_of(variant.update, network), figures=figures
    )


def _claims() -> tuple[Claim, ...]:
    paper = "Yang et al. 2022"
    other = TINYTL
    return (
        Claim("S219", "It takes less training memory than TinyTL: arena of a step and variables.",
              f"{paper}, abstract", "memory.m4", other, "reduction", None, "the paper counts by TinyTL's profiler, at "
              "its batch; three modules have fewer parameters than four branches", at_least=1.1),
        Claim("S219", "The same by TinyTL's profiler, at batch 1.", f"{paper}, abstract", "memory.m2", other,
              "reduction", None, "parameters count most at batch 1", at_least=1.1),
        Claim("S219", "The same at batch 100, where activations count most.", f"{paper}, abstract",
              "memory.m2.batch100", other, "reduction", None, "the modules work on the maps of the first block, the "
              "peak of DigitsMB: not shown at our scale"),
        Claim("S219", "And than full fine-tuning, by TinyTL's profiler at batch 100.", f"{paper}, abstract",
              "memory.m2.batch100", FULL, "reduction", None, "the largest pair of a layer's input and output, "
              "the same in both, is most of what is left", at_least=2.5),
        Claim("S219", "What a step has written of the arena, against full fine-tuning.", f"{paper}, abstract",
              "peak_ram.activations", FULL, "reduction", None, "the paper measures no device", at_least=2.0),
        Claim("S219", "The side network is a small part of the work of forward.", f"{paper}, section 3", "macs.side",
              "", "factor", None, "the smaller the backbone, the larger the part", at_most=0.15,
              against=("macs.backbone", "run")),
        Claim("S219", "A step takes less than TinyTL's.", "no figure", "instructions", other, "reduction", None,
              "the paper measures no device; one branch less, and fewer norms", region="train.step", at_least=1.0),
        Claim("S219", "And less energy.", "no figure", "energy", other, "reduction", None, "as above",
              region="train.step", at_least=1.0),
        Claim("S219", "Accuracy is above TinyTL's.", f"{paper}, abstract", "accuracy", other, "difference", None,
              "240 steps and 200 images tell no difference this small: the bound is what they can tell", at_least=-0.1),
        Claim("S219", "Accuracy is far above that of the last layer alone.", f"{paper}, abstract", "accuracy",
              LAST, "difference", None, "240 steps of plain SGD instead of 50 epochs of Adam", at_least=0.05),
        Claim("S219", "Accuracy against biases alone.", "no figure", "accuracy", BIAS, "difference", None,
              "the cheapest way to reach all layers"),
        Claim("S219", "Accuracy is that of full fine-tuning.", f"{paper}, abstract", "accuracy", FULL,
              "difference", None, "each at its own best rate; 240 steps of one task: our scale cannot show it"),
    )  # fmt: skip


class RepNet:
    """The workload. Variants: ``image=16|32|48|64``, ``update=rep+bias|rep|tinytl|full|last|bias``, ``samples=``,
    ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also ``data=``.
    """

    id: str = "rep-net"
    title: str = "A reprogramming network beside a frozen backbone (Rep-Net), on turned digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S219",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = (TINYTL, FULL, LAST, BIAS)
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        from lab.workloads.networks import lite_residual, rep_net

        chosen = parse(variant)
        sources = (Path(__file__), Path(tinytl.__file__), Path(lite_residual.__file__), Path(rep_net.__file__))
        return prepare_arm(
            self.id, chosen.update, chosen, partial(arm_of, chosen), cache, sources=sources,
            must_learn=chosen.update.startswith("rep"), limits=tinytl.LIMITS,
        )  # fmt: skip


WORKLOAD = RepNet()
