"""What the methods share whose layers learn by losses of their own: networks that learn from scratch, and their arms.

Every hidden layer has a loss of its own and takes its input detached. The compiler puts the gradients and updates of a
layer right behind it (``forward_only``), so that a step of training is one forward pass, and no layer's output is kept
for longer than the next layer needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.errors import ConfigError
from lab.workloads.base import Figure, Prepared
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.training import from_scratch, scratch_images
from lab.workloads.training.agreement import Limits
from lab.workloads.training.from_scratch import LIMITS, Arm, Schedule, prepare_from_scratch
from lab.workloads.training.scratch_photographs import PHOTOGRAPHS
from lab.workloads.training.transfer import Trained

if TYPE_CHECKING:
    from torch import nn

    from lab.workloads.networks.local_mlp import LocalNetwork, Rule
    from lab.workloads.networks.local_recurrent import LocalRecurrent

Update: TypeAlias = Literal["local", "full", "last", "bias"]
Network: TypeAlias = Literal["mlp", "small-conv", "vgg8", "mobilenet", "rnn", "gru"]
CONVOLUTIONAL: tuple[Network, ...] = ("small-conv", "vgg8", "mobilenet")
RECURRENT: tuple[Network, ...] = ("rnn", "gru")
BATCH_NORM = Limits(loss=1e-3, update=1e-3, autograd=1e-3)
"""With batch norm: what backpropagation takes back through it nearly cancels. Seen of its first steps of 128 images, by
autograd against the program's operators: 1.1e-4 of the way at rate 0.03, and 6e-7 with local losses."""
PROJECTION_SEED = 101
"""First seed of fixed projections: no stream of theirs is that of the weights."""
DIGITS_SIDE = 8
BASELINES = ("update=full", "update=last", "update=bias")
_NETWORKS = Path(__file__).parents[1] / "networks"
_SOURCES = (
    *(_NETWORKS / f"{name}.py" for name in ("local_mlp", "local_conv", "local_recurrent", "gru")), Path(__file__)
)  # fmt: skip


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained; all arms have the same rate.

    Attributes:
        update: ``local`` is the method; ``full`` backpropagation, ``last`` the classifier on random layers, ``bias``
            all biases and the classifier, by backpropagation.
        network: ``mlp``, a perceptron, one of :data:`lab.workloads.networks.local_conv.SHAPES`, or ``rnn`` or ``gru``,
            recurrent layers that read an image row by row.
        depth, width: of the perceptron and of the recurrent networks, hidden layers and their units.
        channels: of a convolutional network's first convolution.
        layers: ``together``, or ``one-by-one``: each through all epochs, the first one first.
        modulation: of LLS, what a layer learns of its scores: ``none``, ``class`` (LLS-M) or ``matrix`` (LLS-MxM).
        batch: images of a step.
        norm: of a convolutional network's maps: ``map``, each channel over the image's own, or ``batch``.
    """

    update: Update = "local"
    network: Network = "mlp"
    depth: int = 4
    width: int = 128
    channels: int = 8
    layers: Literal["together", "one-by-one"] = "together"
    modulation: Literal["none", "class", "matrix"] = "none"
    batch: int = 1
    norm: Literal["map", "batch"] = "map"


_OF_NETWORKS: Mapping[str, tuple[Network, ...]] = {
    "depth": ("mlp", *RECURRENT), "width": ("mlp", *RECURRENT), "channels": CONVOLUTIONAL, "norm": CONVOLUTIONAL
}  # fmt: skip
_ARMS: tuple[Allowed, ...] = (
    one_of("update", ("local", "full", "last", "bias")),
    one_of("layers", ("together", "one-by-one")),
    within("depth", 1, 16),
)
ALLOWED: tuple[Allowed, ...] = (
    *_ARMS,
    one_of("network", ("mlp", "small-conv", *RECURRENT), "mlp, small-conv, rnn, gru; others with size=paper"),
    one_of("width", (32, 64, 128, 256)),
    one_of("channels", (4, 8, 16)),
    *from_scratch.ALLOWED,
)
PAPER_ALLOWED: tuple[Allowed, ...] = (
    *_ARMS,
    one_of("network", ("mlp", *CONVOLUTIONAL, *RECURRENT)),
    one_of("width", (32, 64, 128, 256, 512, 1024)),
    one_of("channels", (4, 8, 16, 32, 64, 128)),
    *(one for one in from_scratch.PAPERS_ALLOWED if one.name != "data"),
    one_of("data", (*scratch_images.PAPERS, *PHOTOGRAPHS)),
)
SINGLES: tuple[Allowed, ...] = (one_of("batch", (1,), "1: one image a step"), one_of("norm", ("map",)))
BATCHES: tuple[Allowed, ...] = (within("batch", 1, 128), one_of("norm", ("map", "batch")))
"""How many images a step may have, and their norms."""
Sizes: TypeAlias = Mapping[str, tuple[Variant, Sequence[Allowed]]]


def read_local(workload: str, sizes: Sizes, text: str, modulations: Sequence[str]) -> Variant:
    """The variant that ``text`` names.

    Args:
        workload: id, for the errors.
        sizes: defaults and what is allowed.
        text: ``network=small-conv,channels=8``.
        modulations: of the method.

    Raises:
        ConfigError: an unknown name, a value that is not allowed, an option of another network or arm, or batch norm
            of one image.
    """
    allowed = {size: (default, (*some, one_of("modulation", modulations))) for size, (default, some) in sizes.items()}
    variant = read_sized(workload, allowed, text)
    default, _ = sizes[variant.size]
    asked = {one.name for one in fields(variant) if getattr(variant, one.name) != getattr(default, one.name)}
    for name, networks in _OF_NETWORKS.items():
        if name in asked and variant.network not in networks:
            raise ConfigError(
                f"{workload}: {name}={getattr(variant, name)} is of another network than {variant.network}",
                hint=f"it is an option of network={', '.join(networks)}",
            )
    if variant.norm == "batch" and variant.batch == 1:
        raise ConfigError(
            f"{workload}: norm=batch with batch=1: one image has no statistics of a batch",
            hint="batch=2 to 128, or norm=map",
        )
    if variant.batch > min(variant.samples, variant.evaluated):
        raise ConfigError(
            f"{workload}: batch={variant.batch} of samples={variant.samples}, evaluated={variant.evaluated}",
            hint="a smaller batch=, or more images",
        )
    return variant


def network_of(variant: Variant, local: Rule) -> LocalNetwork:
    """The feedforward network with weights by torch's global random state; ``local`` is the method's rule."""
    from lab.workloads.networks.local_conv import LocalConv
    from lab.workloads.networks.local_mlp import LocalMlp

    rule = local if variant.update == "local" else "backprop"
    inputs, side, classes = _shape(variant)
    if variant.network in ("small-conv", "vgg8", "mobilenet"):
        return LocalConv(
            variant.network, inputs, variant.channels, classes, rule, PROJECTION_SEED, side=side,
            modulation=variant.modulation, norm=variant.norm,
        )  # fmt: skip
    return LocalMlp(
        inputs * side**2, variant.width, variant.depth, classes, rule, PROJECTION_SEED, modulation=variant.modulation
    )


def recurrent_of(variant: Variant, local: Rule) -> LocalRecurrent:
    """The recurrent network, as of :func:`network_of`."""
    from lab.workloads.networks.local_recurrent import LocalRecurrent

    rule = local if variant.update == "local" else "backprop"
    cell: Literal["rnn", "gru"] = "gru" if variant.network == "gru" else "rnn"
    inputs, side, classes = _shape(variant)
    return LocalRecurrent(
        cell, variant.depth, side, inputs * side, variant.width, classes, rule, PROJECTION_SEED
    )  # fmt: skip


def _shape(variant: Variant) -> tuple[int, int, int]:
    """Channels and side of an image, and classes."""
    side = DIGITS_SIDE if variant.data == scratch_images.DIGITS else scratch_images.SIDES[variant.data]
    return scratch_images.CHANNELS[variant.data], side, scratch_images.CLASSES[variant.data]


def prepare_local(workload: str, words: str, variant: Variant, rule: Rule, cache: Path, source: Path) -> Prepared:
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
    is_recurrent = variant.network in RECURRENT
    is_local = variant.update == "local"
    arm = Arm(
        update=variant.update,
        title=_title(variant),
        how=words if is_local else f"backpropagation, update: {variant.update}",
        network=partial(recurrent_of if is_recurrent else network_of, variant, rule),
        figures=_figures,
        sources=(source, *_SOURCES),
        # How far a user's images take the paper's network depends on how many of them there are.
        is_method=is_local and variant.size == "ci",
        forward_only=is_local,
        each_use=is_local and is_recurrent,
        layers=_layers(variant) if is_local and variant.layers == "one-by-one" else (),
        batch=variant.batch,
        batch_norm=variant.norm == "batch",
        limits=BATCH_NORM if variant.norm == "batch" else LIMITS,
    )
    return prepare_from_scratch(workload, variant, arm, cache)


def _layers(variant: Variant) -> tuple[tuple[str, ...], ...]:
    """The layers in the order in which they learn."""
    from lab.workloads.networks.local_conv import SHAPES

    if variant.network in ("small-conv", "vgg8", "mobilenet"):
        shape = SHAPES[variant.network]
        hidden = len(shape.blocks) + (shape.units > 0)
    else:
        hidden = variant.depth
    return (*((f"hidden.{number}", f"modulation.{number}") for number in range(hidden)), ("classifier",))


def _title(variant: Variant) -> str:
    after = ", layers one by one" if variant.layers == "one-by-one" else ""
    if variant.network == "mlp":
        return f"Perceptron of {variant.depth} hidden layers of {variant.width}{after}"
    if variant.network in RECURRENT:
        layers = f"{variant.depth} layers of {variant.width}"
        return f"{variant.network.upper()} of {layers} over the rows of {variant.data}{after}"
    names = {"small-conv": "Three convolutions and a linear layer", "vgg8": "VGG-8", "mobilenet": "MobileNet"}
    return f"{names[variant.network]} from {variant.channels} channels on, on {variant.data}{after}"


def _figures(network: nn.Module, _: Trained) -> tuple[Figure, ...]:
    from lab.workloads.networks.local_mlp import LocalNetwork

    scores = 0
    if isinstance(network, LocalNetwork) and network.rule == "periodic":
        classes = network.classifier.out_features
        scores = classes * (sum(network.latents) + sum(len(one) if one.dim() > 1 else 1 for one in network.modulation))
    return (Figure("macs.local", scores, "MACs", "of the hidden layers' own scores, forward"),)
