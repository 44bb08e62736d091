"""Gradient filtering: gradients of the last blocks on patches. Yang et al., "Efficient On-device Training via Gradient
Filtering", CVPR 2023.

Neighbouring positions of a map have similar gradients: one for each patch of r × r positions will do. Backward then
works on maps r² times smaller with 1×1 kernels, and forward keeps sums over patches. The compiler's pass
``filter_gradients`` does it; PyTorch's side of the comparison is an autograd function of its own
(``lab/workloads/networks/filtered.py``).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.options import one_of, read_sized
from lab.workloads.training import own_images, transfer_tasks
from lab.workloads.training.agreement import Limits
from lab.workloads.training.arms import PLAIN, Arm, plain_arm, prepare_arm, selected
from lab.workloads.training.transfer_tasks import Schedule

if TYPE_CHECKING:
    import torch
    from torch import nn

Update: TypeAlias = Literal["filtered", "exact", "full", "last", "bias"]
LIMITS = Limits(loss=0.02, update=0.25)
"""A last bit can put a value on the other side of a ReLU's corner, and the ways part from there."""
EXACT, FULL = "update=exact,rate=0.01", "update=full,rate=0.005"
LAST, BIAS = "update=last,rate=0.08", "update=bias,rate=0.04"
"""Each at its own best rate, by the grid of :mod:`lab.workloads.training.rates`."""
MOST_BLOCKS = 4


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what.

    Attributes:
        update: ``filtered`` and ``exact`` are the last blocks with and without patches.
        blocks: how many blocks, each of three convolutions; the paper trains the last one to four convolutions.
        patch: positions along a side of a patch of a layer's output map.
    """

    image: int = 32
    update: Update = "filtered"
    blocks: int = 1
    patch: int = 2
    rate: float = 0.04


PAPER = Variant("paper", "mcunet", "", own_images.SIDE, samples=1000, rate=0.02, evaluated=500)
_OWN = (
    one_of("update", get_args(Update)), one_of("blocks", range(1, MOST_BLOCKS + 1)), one_of("patch", (2, 4)),
)  # fmt: skip
SIZES = {"ci": (Variant(), (*transfer_tasks.ALLOWED, *_OWN)), "paper": (PAPER, (*own_images.ALLOWED, *_OWN))}


def parse(text: str) -> Variant:
    """A variant from ``patch=4,blocks=1``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("gradient-filtering", SIZES, text)


def arm_of(variant: Variant, network: nn.Module, example: torch.Tensor) -> Arm:
    """The last blocks, on patches or not, or an arm that any network has."""
    if variant.update in PLAIN:
        return plain_arm(variant.update, network, example)
    from lab.compiler.layer_costs import layer_list, weighted
    from lab.compiler.update_schemes import UpdateScheme

    layers = layer_list(network, example)
    trunk = [layer.name for layer in weighted(layers)][:-1]
    blocks = [name for name, _ in network.named_children() if name.startswith("block")][-variant.blocks :]
    chosen = {number: name for number, name in enumerate(trunk) if name.partition(".")[0] in blocks}
    # What lies behind the last block changes with it: the 1x1 convolution of larger networks.
    last = {number: name for number, name in enumerate(trunk) if number >= min(chosen)}
    side = variant.patch if variant.update == "filtered" else 1
    patches = {number: side for number in last if side > 1}
    scheme = UpdateScheme(dict.fromkeys(last, 1.0), biases=len(last), patches=patches)
    return Arm(network, layers, scheme, selected(scheme, network, layers), {last[one]: side for one in patches})


def _claims() -> tuple[Claim, ...]:
    paper = "Yang et al. 2023"
    return (
        Claim("S200", "Backward of a layer takes k² r² times fewer multiply-accumulates.", f"{paper}, section 3.3",
              "macs.backward", EXACT, "reduction", 36.0, "k = 3 and r = 2 in the paper's layers. Two thirds of ours "
              "are 1×1 and have r² = 4 in place of 36", at_least=4.0),
        Claim("S200", "Which pays off in what the core executes in backward.",
              f"{paper}, abstract: up to 19 times faster; its repository: 14 to 20 on a Raspberry Pi 3 with r = 2",
              "instructions", EXACT, "reduction", 19.0, "the paper times single 3×3 layers of 56 to 160 positions a "
              "side; sums over patches, masks and the bias's exact gradient remain at every position",
              region="train.backward", at_least=1.5),
        Claim("S200", "And in a whole step, forward with it.", "no figure", "instructions", EXACT, "reduction", None,
              "forward is unchanged and the same in both", region="train.step", at_least=1.05),
        Claim("S200", "And in its energy.", f"{paper}, abstract: over 90 % less than with cuDNN on a Jetson Nano",
              "energy", EXACT, "reduction", 10.0, "the paper measures the backward of single layers, we a whole step",
              region="train.step", at_least=1.05),
        Claim("S200", "It saves memory: what a step has written of the arena.", f"{paper}, abstract: 77.1 % less",
              "peak_ram.activations", EXACT, "reduction", 4.4, "one block, as many convolutions as in the paper: "
              "the maps of the first block, the same in both, are the peak. Two blocks: 1.54", at_least=1.0),
        Claim("S200", "And against full training: the arena of a step.", f"{paper}, abstract: 77.1 % less", "arena",
              FULL, "reduction", 4.4, "forward needs its arena in both; on m4f full training has no room",
              at_least=3.0),
        Claim("S200", "What is kept of inputs falls by r².", f"{paper}, section 3.3", "memory.m1", EXACT, "reduction",
              4.0, "masks of one bit and updated weights are in both, and not divided", at_least=1.2),
        Claim("S200", "Training fits into the arena of inference.", "no figure", "arena", "", "factor", None,
              "the gradients of the last blocks are smaller than the maps of the first", at_most=1.05,
              against=("arena.inference", "run")),
        Claim("S200", "It costs little accuracy.", f"{paper}, abstract: 0.1 % on ImageNet", "accuracy", EXACT,
              "difference", -0.001, "each at its own best rate; 200 images tell no difference this small"),
        Claim("S200", "Accuracy is far above that of the last layer alone.", "no figure", "accuracy", LAST,
              "difference", None, "the cheapest baseline", at_least=0.05),
        Claim("S200", "Accuracy against biases alone.", "no figure", "accuracy", BIAS, "difference", None,
              "biases of all layers, at the cost of a full chain of input gradients"),
        Claim("S200", "Accuracy against full training.", "no figure", "accuracy", FULL, "difference", None,
              "the paper trains the last one to four convolutions in all arms"),
        Claim("S200", "Backward instructions against full training.", "no figure", "instructions", FULL,
              "reduction", None, "what leaving out the first blocks and patches save together",
              region="train.backward", at_least=3.0),
    )  # fmt: skip


class GradientFiltering:
    """The workload. Variants: ``image=16|32|48|64``, ``update=filtered|exact|full|last|bias``, ``blocks=1|2|3|4``,
    ``patch=2|4``, ``samples=``, ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With
    ``size=paper`` also ``data=`` and ``network=``.
    """

    id: str = "gradient-filtering"
    title: str = "Gradients on patches of the last blocks (gradient filtering), on turned digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S200",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = (EXACT, FULL, LAST, BIAS)
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
            CompileError: patches that do not divide a map.
        """
        from lab.workloads.networks import filtered

        chosen = parse(variant)
        patches = f" on patches of {chosen.patch}x{chosen.patch}" if chosen.update == "filtered" else ""
        return prepare_arm(
            self.id, f"{chosen.update}{patches}", chosen, partial(arm_of, chosen), cache,
            sources=(Path(__file__), Path(filtered.__file__)), must_learn=chosen.update == "filtered", limits=LIMITS,
        )  # fmt: skip


WORKLOAD = GradientFiltering()
