"""BAFFLE: training by forward passes alone. Feng et al., "Does Federated Learning Really Need Backpropagation?".

Each step moves all weights by K random perturbations, one after another, and keeps one number of each pass, the loss.
By Stein's identity the mean of loss differences times perturbations estimates the gradient. Perturbations are made
again from a key where they are needed: the device stores neither them nor a gradient nor anything for a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from lab.errors import ConfigError
from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Figure, Prepared
from lab.workloads.data import digits
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.training import from_scratch, scratch_images
from lab.workloads.training.baffle_federation import Plan, prepare_federated
from lab.workloads.training.federated import SteinOptions
from lab.workloads.training.from_scratch import Arm, Schedule, prepare_from_scratch
from lab.workloads.training.transfer import Trained

if TYPE_CHECKING:
    from torch import nn

    from lab.compiler.operations.perturbation import Perturbation

Update: TypeAlias = Literal["stein", "full", "last", "bias"]
FULL, LAST, BIAS = "update=full,rate=0.03", "update=last,rate=0.06", "update=bias,rate=0.06"
ONE = "passes=1,rate=0.0002"
BASELINES = (FULL, LAST, BIAS, ONE)
"""Of a few rates those with the most accuracy, as the method's: a noisier gradient bears a smaller one."""
_NETWORKS = Path(__file__).parents[1] / "networks"
_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Variant(Schedule):
    """What is trained.

    Attributes:
        update: ``stein`` is the method; by backpropagation: ``full``, ``last`` the classifier on random layers,
            ``bias`` all biases and the classifier.
        passes: perturbations of a step, K.
        sigma: how far each weight is moved; a power of two loses least in adding and subtracting it.
        channels: of the convolutions; of LeNet's first, with ``size=paper``.
        augment: ``paper``: this computer mirrors and moves colour images anew in each epoch, and leaves grey ones.
        network: with ``size=paper``, ``lenet`` or ``wrn10-2``, a wide residual network; ``digits-cnn`` otherwise.
        clients: 1: the device learns by itself. More: it plays them all, and this computer is their server. Under
            backpropagation the server averages what the clients' own steps have made of the weights.
        batch: with clients, samples of each in a round.
        server, server_rate, clip, average: with clients, the server's optimiser, its learning rate, most of an element
            of the gradient (0: no limit), and the share of the average of weights that stays in a round.
    """

    update: Update = "stein"
    passes: int = 50
    sigma: float = 2.0**-7
    channels: int = 8
    network: Literal["digits-cnn", "lenet", "wrn10-2"] = "digits-cnn"
    augment: Literal["none", "paper"] = "none"
    epochs: int = 2
    rate: float = 0.005
    target: float = 0.7
    clients: int = 1
    batch: int = 2
    server: Literal["adam", "sgd"] = "adam"
    server_rate: float = 0.01
    clip: float = 0.3
    average: float = 0.98


PAPER = Variant(
    "paper", scratch_images.CIFAR10, samples=200, evaluated=100, passes=100, channels=16, network="lenet",
    augment="paper", epochs=1, rate=0.0003, target=0.3,
)  # fmt: skip
"""LeNet; the least of the paper's passes, and as many steps as an hour allows."""
_METHOD: tuple[Allowed, ...] = (
    one_of("update", ("stein", "full", "last", "bias")),
    within("passes", 1, 5000),
    within("sigma", 1e-4, 1, "0.0001 to 1: below, differences of float32 losses are lost in rounding"),
    within("clients", 1, 100),
    within("batch", 1, 64),
    one_of("server", ("adam", "sgd")),
    within("server_rate", 1e-6, 10),
    within("clip", 0, 1000),
    within("average", 0, 0.9999),
)
_SERVERS = ("batch", "server", "server_rate", "clip", "average")
SIZES = {
    "ci": (Variant(), (*_METHOD, one_of("channels", (4, 8, 16)), one_of("network", ("digits-cnn",)),
                       one_of("augment", ("none",), "none; paper with size=paper"),
                       *from_scratch.ALLOWED)),
    "paper": (PAPER, (*_METHOD, one_of("channels", (4, 8, 16, 32)), one_of("network", ("lenet", "wrn10-2")),
                      one_of("augment", ("paper", "none")), *from_scratch.PAPERS_ALLOWED)),
}  # fmt: skip


def _claims() -> tuple[Claim, ...]:
    paper = "Feng et al., abstract"
    memory = "of backpropagation at batch 1; each gradient is applied at once"
    return (
        Claim("S063", "Training takes the memory of inference: nothing is kept but one number a pass.", paper, "arena",
              "", "factor", 1.0, "the losses of the passes, 4 bytes each", at_most=1.15,
              against=("arena.inference", "run")),
        Claim("S063", "A step needs less memory than backpropagation.", f"{paper}; no figure", "arena", FULL,
              "reduction", None, memory, at_least=2.5),
        Claim("S063", "The same, as the device has it: what a step has written of the arena.", f"{paper}; no figure",
              "peak_ram.activations", FULL, "reduction", None, memory, at_least=2.5),
        Claim("S063", "The same with the trained variables.", f"{paper}; no figure", "memory.m4", FULL, "reduction",
              None, "weights are the same in both, and half of it or more", at_least=1.4),
        Claim("S063", "A client sends a number a pass in place of a gradient.", f"{paper}; no figure", "uplink", FULL,
              "reduction", None, "parameters over passes; 2000 with a million parameters and 500 passes",
              at_least=20.0),
        Claim("S063", "It is paid for in multiply-accumulates.", "K + 1 passes against three", "macs.step", FULL,
              "factor", None, "51 passes of one; adding up perturbations is a tenth of it", at_most=30.0),
        Claim("S063", "In what the core executes.", "no figure", "instructions", FULL, "factor", None,
              "moving all weights twice a pass is work that multiply-accumulates do not show", region="train.step"),
        Claim("S063", "And in the energy of a step.", "no figure", "energy", FULL, "factor", None, "as above",
              region="train.step"),
        Claim("S063", "It trains from scratch to an acceptable accuracy.",
              f"{paper}; .92 with 50 passes, .95 with 1000 against .97 on digits in our reference runs", "accuracy",
              FULL, "difference", None, "two passes over the images with one sample a step, plain SGD, no average of "
              "weights; 300 steps of Adam with 32 samples in the reference runs", at_least=-0.1),
        Claim("S063", "Many perturbations a step are better than one.", "no figure", "accuracy", ONE, "difference",
              None, "the noise of the estimate falls by the root of their number", at_least=0.3),
        Claim("S063", "It is better than the classifier alone by backpropagation.", "no figure", "accuracy", LAST,
              "difference", None, "128 random features are good ones for ten digits, and their gradient is exact: our "
              "scale does not show it"),
        Claim("S063", "It is better than biases alone by backpropagation.", "no figure", "accuracy", BIAS, "difference",
              None, "as above"),
    )  # fmt: skip


def parse(workload: str, text: str) -> Variant:
    """A variant from ``passes=100,rate=0.003``; what is not named is as by default of its size.

    Raises:
        ConfigError: an unknown name, a value that is not allowed, options of a server without clients, or fewer samples
            than a round takes.
    """
    variant = read_sized(workload, SIZES, text)
    default, _ = SIZES[variant.size]
    asked = [name for name in _SERVERS if getattr(variant, name) != getattr(default, name)]
    if variant.network == "wrn10-2" and scratch_images.CHANNELS[variant.data] != 3:
        raise ConfigError(
            f"{workload}: network=wrn10-2 takes colour images; data={variant.data} is grey",
            hint="data=cifar10 or data=cifar100, or network=lenet",
        )
    if variant.clients == 1 and asked:
        raise ConfigError(
            f"{workload}: {asked[0]}={getattr(variant, asked[0])} is of a server, and there are no clients",
            hint="clients=2 to 100 with it",
        )
    if variant.clients > 1 and variant.samples < variant.clients * variant.batch:
        raise ConfigError(
            f"{workload}: a round takes {variant.batch} samples of {variant.clients} clients each; there are "
            f"{variant.samples}", hint="more samples, fewer clients or a smaller batch",
        )  # fmt: skip
    return variant


class Baffle:
    """The workload. Variants: ``update=stein|full|last|bias``, ``passes=``, ``sigma=``, ``channels=4|8|16``,
    ``samples=``, ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas; of a federation
    ``clients=``, ``batch=``, ``server=adam|sgd``, ``server_rate=``, ``clip=``, ``average=``. With ``size=paper`` also
    ``data=cifar10|cifar100|mnist|fashion-mnist|kmnist``, ``network=lenet|wrn10-2``, ``augment=paper|none`` and
    ``channels=32``.
    """

    id: str = "baffle"
    title: str = "Training by forward passes with perturbed weights, without a backward pass (BAFFLE), on digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S063",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = BASELINES
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(self.id, variant)
        is_method = chosen.update == "stein"
        arm = Arm(
            update=chosen.update,
            title=_title(chosen),
            how=_how(chosen),
            network=partial(_network, chosen),
            figures=partial(_figures, chosen),
            sources=(Path(__file__), *(_NETWORKS / name for name in ("digits_cnn.py", "lenet.py", "wide_resnet.py"))),
            # One perturbation a step is a baseline, which need not learn; LeNet needs more steps than the default's.
            is_method=is_method and chosen.passes > 1 and chosen.size == "ci",
            perturbation=partial(_perturbation, chosen) if is_method else None,
            augments=_augments(chosen),
        )  # fmt: skip
        if chosen.clients == 1:
            return prepare_from_scratch(self.id, chosen, arm, cache)
        server = SteinOptions(chosen.server, chosen.server_rate, chosen.clip, chosen.average)
        plan = Plan(chosen.clients, chosen.batch, server, chosen.passes, chosen.sigma)
        return prepare_federated(self.id, chosen, arm, plan, cache)


def _title(variant: Variant) -> str:
    if variant.network == "wrn10-2":
        return f"WideResNet-10-2 on {variant.data}"
    if variant.network == "lenet":
        return f"LeNet of {variant.channels} and {4 * variant.channels} channels on {variant.data}"
    return f"Two convolutions of {variant.channels} channels and a classifier"


def _how(variant: Variant) -> str:
    shown = ", images mirrored and moved anew in each epoch" if _augments(variant) else ""
    if variant.update == "stein":
        return f"{variant.passes} passes a step with weights perturbed by {variant.sigma:g}{shown}"
    return f"backpropagation, update: {variant.update}{shown}"


def _augments(variant: Variant) -> bool:
    """Whether images are changed: the paper does so with colour images."""
    return variant.augment == "paper" and scratch_images.CHANNELS[variant.data] == 3


def _network(variant: Variant) -> nn.Module:
    from lab.workloads.networks.digits_cnn import digits_cnn
    from lab.workloads.networks.lenet import lenet
    from lab.workloads.networks.wide_resnet import wide_resnet_10_2

    classes = scratch_images.CLASSES[variant.data]
    if variant.network == "wrn10-2":
        return wide_resnet_10_2(classes)
    if variant.network == "lenet":
        return lenet(scratch_images.CHANNELS[variant.data], classes, variant.channels)
    return digits_cnn(variant.channels, digits.CLASSES)


def _perturbation(variant: Variant) -> Perturbation:
    from lab.compiler.operations.perturbation import Perturbation

    return Perturbation(variant.passes, variant.sigma)


def _figures(variant: Variant, _: nn.Module, trained: Trained) -> tuple[Figure, ...]:
    """What a client would send, where the device takes the server's steps, too; it is measured otherwise."""
    if variant.clients > 1:
        return ()
    if variant.update == "stein":
        sent, note = _FLOAT_BYTES * variant.passes, "losses of a step's passes, which a client would send"
    else:
        sent, note = trained.training.variables_bytes, "gradient of a step, which a client would send"
    return (Figure("uplink", sent, "bytes", note),)


WORKLOAD = Baffle()
