"""tpSGD: layers that learn towards a fixed random projection of the label. "Learning with Local Gradients at the Edge".

The label, projected by a fixed random matrix for each hidden layer, is what the layer is to yield; half the squared
distance from it is the layer's own loss. The last layer learns by the ordinary loss. Nothing is retained between
layers, and the rule needs no automatic differentiation: error times the activation's slope times the input.
"""

from __future__ import annotations

from pathlib import Path

from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.training import scratch_images
from lab.workloads.training.local_learning import (
    ALLOWED,
    BASELINES,
    PAPER_ALLOWED,
    SINGLES,
    Sizes,
    Variant,
    prepare_local,
    read_local,
)

DEFAULT = Variant(depth=3, rate=0.005)
"""The paper speaks of shallow networks; all arms have the rate at which the slowest rule does not jump."""
PAPER = Variant(
    "paper", scratch_images.MNIST, samples=5000, evaluated=500, rate=0.004, target=0.8, depth=2, width=512
)  # fmt: skip
"""A shallow perceptron on MNIST; how many units the paper's has is not in our reference. Convolutions are asked for."""
SIZES: Sizes = {"ci": (DEFAULT, (*ALLOWED, *SINGLES)), "paper": (PAPER, (*PAPER_ALLOWED, *SINGLES))}


def _claims() -> tuple[Claim, ...]:
    paper = '"Learning with Local Gradients at the Edge"'
    return (
        Claim("S021", "Accuracy is within 5 % of backpropagation on shallow networks.", f"{paper}, abstract",
              "accuracy", "update=full", "difference", -0.05, "one pass of plain SGD, one sample a step, layers all "
              "at once; with layers=one-by-one, a pass each, the difference is gone", at_least=-0.05),
        Claim("S021", "Training takes less memory: nothing is retained between layers.", f"{paper}, abstract", "arena",
              "update=full", "reduction", None, "a layer's input, output, target and gradient against the outputs of "
              "three layers: the gain grows with depth", at_least=1.0),
        Claim("S021", "The same, as the device has it: what a step has written of the arena.", f"{paper}, abstract",
              "peak_ram.activations", "update=full", "reduction", None, "as above", at_least=1.0),
        Claim("S021", "The same with the trained variables.", f"{paper}, abstract", "memory.m4", "update=full",
              "reduction", None, "weights of a perceptron outweigh its activations at batch 1 by far: our scale cannot "
              "show it"),
        Claim("S021", "A step takes fewer multiply-accumulates: no gradient of a layer's input.", "no figure",
              "macs.step", "update=full", "reduction", None, "two thirds of the products", at_least=1.2),
        Claim("S021", "Which pays off in what the core executes.", "no figure", "instructions", "update=full",
              "reduction", None, "the local loss is a subtraction", region="train.step", at_least=1.1),
        Claim("S021", "And in the energy of a step.", "no figure", "energy", "update=full", "reduction", None,
              "as above", region="train.step", at_least=1.1),
        Claim("S021", "It learns what a classifier on random layers cannot.", "no figure", "accuracy", "update=last",
              "difference", None, "128 random units a layer are already good features for ten digits", at_least=0.0),
        Claim("S021", "It is better than biases alone.", "no figure", "accuracy", "update=bias", "difference", None,
              "a cheap arm that needs a backward pass through all layers"),
    )  # fmt: skip


class TpSgd:
    """The workload. Variants: ``update=local|full|last|bias``, ``layers=together|one-by-one``,
    ``network=mlp|small-conv|rnn|gru``, ``depth=``, ``width=32|64|128|256``, ``channels=4|8|16``, ``samples=``,
    ``epochs=``, ``rate=``, ``evaluated=``, ``target=``, separated by commas. With ``size=paper`` also
    ``data=cifar10|cifar100|mnist|fashion-mnist|kmnist|imagenette|tiny-imagenet|vww``, ``network=vgg8|mobilenet``,
    ``width=512|1024`` and ``channels=32|64|128``.
    """

    id: str = "tpsgd"
    title: str = "Layers that learn towards random projections of the label, without a backward pass (tpSGD), on digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S021",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = BASELINES
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = read_local(self.id, SIZES, variant, ("none",))
        words = "each layer towards a random projection of the label"
        return prepare_local(self.id, words, chosen, "projection", cache, Path(__file__))


WORKLOAD = TpSgd()
