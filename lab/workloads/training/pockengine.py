"""PockEngine: a training step compiled ahead of time, against a framework on the same device. Zhu et al., "PockEngine:
Sparse and Efficient Fine-tuning in a Pocket", MICRO 2023.

Autodiff happens at compile time; what a sparse update does not ask for is pruned from the backward graph, gradients are
applied where they arise, and what is left is a program without a framework. This lab's own compiler does all of that:
the workload measures it beside PyTorch, which takes the same steps of the same network from the same samples on the
same device, and beside its own full update, which tells what pruning saves from what leaving out the framework does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from lab.workloads.base import Claim, DeviceClass, Figure, Prepared
from lab.workloads.options import one_of, read_sized
from lab.workloads.training import own_images, torch_arms, transfer_tasks
from lab.workloads.training.agreement import Limits
from lab.workloads.training.arms import PLAIN, Arm, plain_arm, prepare_arm, selected
from lab.workloads.training.transfer_tasks import Schedule

if TYPE_CHECKING:
    import torch
    from torch import nn

Update: TypeAlias = Literal["sparse", "full", "last", "bias"]
LIMITS = Limits(loss=0.02, update=0.25)
"""A last bit can put a value on the other side of a ReLU's corner, and the ways part from there."""
BLOCKS = 2


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained, and on what.

    Attributes:
        update: ``sparse`` is the paper's rule for convolutional networks: biases and the first pointwise convolution of
            the last blocks, and the classifier.
    """

    update: Update = "sparse"


PAPER = Variant("paper", "mcunet", "", own_images.SIDE, samples=1000, evaluated=500)
_UPDATE = one_of("update", get_args(Update))
# Half of what the other methods learn at: so small a step keeps the full update on PyTorch's way on every processor.
CI = Variant(rate=0.01)
SIZES = {"ci": (CI, (*transfer_tasks.ALLOWED, _UPDATE)), "paper": (PAPER, (*own_images.ALLOWED, _UPDATE))}


def parse(text: str) -> Variant:
    """A variant from ``update=full``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("pockengine", SIZES, text)


def arm_of(variant: Variant, network: nn.Module, example: torch.Tensor) -> Arm:
    """The sparse update, or an arm that any network has."""
    if variant.update in PLAIN:
        return plain_arm(variant.update, network, example)
    from lab.compiler.layer_costs import layer_list, weighted
    from lab.compiler.update_schemes import UpdateScheme

    layers = layer_list(network, example)
    trunk = [layer.name for layer in weighted(layers)][:-1]
    blocks = [name for name, _ in network.named_children() if name.startswith("block")][-BLOCKS:]
    first = [next(number for number, name in enumerate(trunk) if name.startswith(f"{block}.")) for block in blocks]
    scheme = UpdateScheme(dict.fromkeys(first, 1.0), biases=len(trunk) - first[0])
    return Arm(network, layers, scheme, selected(scheme, network, layers))


def _claims() -> tuple[Claim, ...]:
    paper, same = "Zhu et al. 2023, abstract", "pytorch"
    return (
        Claim("S103", "A compiled step is up to 15 times faster than a framework's.", f"{paper}: TensorFlow on a "
              "Raspberry Pi 4", "latency", same, "reduction", 15.0, "PyTorch stands for TensorFlow, and takes the same "
              "sparse update; at batch 1 it is overhead that is left out, the more the smaller the network",
              region="train.step", at_least=1.5),
        Claim("S103", "And than a framework's full update.", paper, "latency", "pytorch,update=full", "reduction",
              None, "leaving out the framework and pruning together", region="train.step", at_least=1.5),
        Claim("S103", "Pruning alone: against the compiler's own full update.", paper, "latency", "update=full",
              "reduction", None, "forward and the chain of input gradients down to the last blocks remain",
              region="train.step", at_least=1.1),
        Claim("S103", "The process needs less memory than the framework's.", f"{paper}: 5.6 times less in backward on "
              "a Jetson AGX Orin", "peak_ram.process", same, "reduction", 5.6, "the interpreter and the framework are "
              "most of it at this scale", at_least=5.6),
        Claim("S103", "Pruning saves memory: what a step has written of the arena.", paper, "peak_ram.activations",
              "update=full", "reduction", None, "our full update applies each gradient at once as well", at_least=1.5),
        Claim("S103", "Pruning drops multiply-accumulates of backward.", paper, "macs.backward", "update=full",
              "reduction", None, "DigitsMB has its largest layers at the end", at_least=1.5),
        Claim("S103", "Pruning drops steps of the backward graph.", paper, "steps.backward", "update=full", "reduction",
              None, "the first half of a network of four blocks", at_least=1.5),
        Claim("S103", "The compiled step learns what the framework learns.", paper, "accuracy", same, "difference", 0.0,
              "the same steps; a last bit can tip an answer", at_least=-0.05, at_most=0.05),
        Claim("S103", "A sparse update costs little accuracy.", paper, "accuracy", "update=full", "difference", None,
              "240 steps of one sample at one rate for all arms: our scale does not show it"),
        Claim("S103", "Accuracy is above that of the last layer alone.", "no figure", "accuracy", "update=last",
              "difference", None, "the cheapest baseline", at_least=0.0),
    )  # fmt: skip


class PockEngine:
    """The workload. Variants: ``image=16|32|48|64``, ``update=sparse|full|last|bias``, ``samples=``, ``epochs=``,
    ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also ``data=`` and ``network=``.
    """

    id: str = "pockengine"
    title: str = "A compiled sparse training step against PyTorch on the same device (PockEngine), on turned digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S103",)
    classes: tuple[DeviceClass, ...] = ("linux", "host")
    baselines: tuple[str, ...] = ("pytorch", "pytorch,update=full", "update=full", "update=last")
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen, sources = parse(variant), (Path(__file__),)
        arm = partial(arm_of, chosen)
        prepared = prepare_arm(
            self.id, chosen.update, chosen, arm, cache, sources=sources, must_learn=chosen.update == "sparse",
            limits=LIMITS,
        )  # fmt: skip
        training = prepared.model.training
        steps = 0 if training is None else sum(one.phase == "backward" for one in training.steps)
        return replace(
            prepared,
            figures=(*prepared.figures, Figure("steps.backward", steps, "1", "kernels called in backward")),
            program=lambda: torch_arms.torch_program(self.id, chosen, arm, cache, sources),
        )


WORKLOAD = PockEngine()
