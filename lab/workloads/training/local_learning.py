"""What the methods share whose layers learn by losses of their own: networks that learn from scratch, and their arms.

Every hidden layer has a loss of its own and takes its input detached. The compiler puts the gradients and updates of a
layer right behind it (``forward_only``), so that a step of training is one forward pass, and no layer's output is kept
for longer than the next layer needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.workloads.base import Figure, Prepared
from lab.workloads.data import digits
from lab.workloads.options import Allowed, one_of, within
from lab.workloads.training import from_scratch, scratch_images
from lab.workloads.training.from_scratch import Arm, Schedule, prepare_from_scratch
from lab.workloads.training.transfer import Limits, Trained

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.networks.local_mlp import LocalNetwork, Rule

Update: TypeAlias = Literal["local", "full", "last", "bias"]
PROJECTION_SEED = 101
"""First seed of fixed projections: no stream of theirs is that of the weights."""
DIGITS_SIDE = 8
BASELINES = ("update=full", "update=last", "update=bias")
_NETWORKS = Path(__file__).parents[1] / "networks"
_SOURCES = (_NETWORKS / "local_mlp.py", _NETWORKS / "local_conv.py", Path(__file__))


@dataclass(frozen=True)
class Local(Schedule):
    """What is trained; all arms have the same rate.

    Attributes:
        update: ``local`` is the method; ``full`` backpropagation, ``last`` the classifier on random layers, ``bias``
            all biases and the classifier, by backpropagation.
    """

    update: Update = "local"


@dataclass(frozen=True)
class Variant(Local):
    """A perceptron.

    Attributes:
        depth, width: hidden layers and their units.
    """

    depth: int = 4
    width: int = 128


@dataclass(frozen=True)
class ConvVariant(Local):
    """A small convolutional network for images of 32×32 pixels.

    Attributes:
        channels: of its first convolution.
    """

    channels: int = 32


_UPDATE = one_of("update", ("local", "full", "last", "bias"))
ALLOWED: tuple[Allowed, ...] = (
    _UPDATE, within("depth", 1, 16), one_of("width", (32, 64, 128, 256)), *from_scratch.ALLOWED
)  # fmt: skip
PAPER_ALLOWED: tuple[Allowed, ...] = (
    _UPDATE, within("depth", 1, 16), one_of("width", (32, 64, 128, 256, 512, 1024)), *from_scratch.PAPERS_ALLOWED
)  # fmt: skip
CONV_ALLOWED: tuple[Allowed, ...] = (_UPDATE, one_of("channels", (4, 8, 16, 32)), *from_scratch.PAPERS_ALLOWED)
CONV_LIMITS = Limits(loss=1e-2, update=0.05, autograd=0.05)
"""Of normalised maps some 60,000 values a step are symmetric about 0, where a leaky ReLU has its kink: one within 3e-7
of it takes the other slope where sums are in another order, and a row of weights another step. Seen: 4e-6 of the way
without such a value, 1e-2 with one among the first ten steps; of a loss of 12, 4e-4."""
Chosen: TypeAlias = Variant | ConvVariant
Sizes: TypeAlias = Mapping[str, tuple[Chosen, Sequence[Allowed]]]


def network_of(variant: Chosen, local: Rule) -> LocalNetwork:
    """The network with weights by torch's global random state; ``local`` is the method's rule."""
    from lab.workloads.networks.local_conv import SmallConv
    from lab.workloads.networks.local_mlp import LocalMlp

    rule = local if variant.update == "local" else "backprop"
    channels = scratch_images.CHANNELS[variant.data]
    if isinstance(variant, ConvVariant):
        return SmallConv(channels, variant.channels, digits.CLASSES, rule, PROJECTION_SEED)
    side = DIGITS_SIDE if variant.data == scratch_images.DIGITS else scratch_images.SIDE
    return LocalMlp(channels * side**2, variant.width, variant.depth, digits.CLASSES, rule, PROJECTION_SEED)


def prepare_local(workload: str, words: str, variant: Chosen, rule: Rule, cache: Path, source: Path) -> Prepared:
    """Compile and train one arm on this computer, or read all of it from the cache.

    Args:
        workload: id.
        words: the rule, in words.
        variant: the arm.
        rule: of the method's own arm.
        cache: the lab's.
        source: the method's file.

    Raises:
        ConfigError: no data.
        CompileError: the network cannot be compiled so.
    """
    is_local = variant.update == "local"
    arm = Arm(
        update=variant.update,
        title=_title(variant),
        how=words if is_local else f"backpropagation, update: {variant.update}",
        network=partial(network_of, variant, rule),
        figures=_figures,
        sources=(source, *_SOURCES),
        limits=CONV_LIMITS if isinstance(variant, ConvVariant) else from_scratch.LIMITS,
        # How far a user's images take the paper's network depends on how many of them there are.
        is_method=is_local and variant.size == "ci",
        forward_only=is_local,
    )
    return prepare_from_scratch(workload, variant, arm, cache)


def _title(variant: Chosen) -> str:
    if isinstance(variant, ConvVariant):
        return f"Three convolutions from {variant.channels} channels on and a linear layer, on {variant.data}"
    return f"Perceptron of {variant.depth} hidden layers of {variant.width}"


def _figures(network: nn.Module, _: Trained) -> tuple[Figure, ...]:
    from lab.workloads.networks.local_mlp import LocalNetwork

    latents = 0
    if isinstance(network, LocalNetwork) and network.rule == "periodic":
        latents = sum(network.latents)
    return (Figure("macs.local", latents * digits.CLASSES, "MACs", "of the hidden layers' own scores, forward"),)
