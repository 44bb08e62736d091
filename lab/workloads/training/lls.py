"""LLS: layers that learn by their agreement with a fixed periodic basis. Apolinario, Roy and Roy, "LLS: Local Learning
Rule for Deep Neural Networks Inspired by Neural Activity Synchronization", 2024.

Each hidden layer's output is pooled, normalised and compared with one sine for each class; cross-entropy of these
scores is the layer's own loss. Nothing of it needs later layers, and nothing but the basis is added to the network:
other local rules train a classifier beside each layer.
"""

from __future__ import annotations

from pathlib import Path

from lab.errors import ConfigError
from lab.workloads.base import EVERY_CLASS, Claim, DeviceClass, Prepared
from lab.workloads.options import one_of
from lab.workloads.training import scratch_images
from lab.workloads.training.local_learning import (
    ALLOWED,
    BASELINES,
    BATCHES,
    CONVOLUTIONAL,
    PAPER_ALLOWED,
    Sizes,
    Variant,
    prepare_local,
    read_local,
)


def _claims() -> tuple[Claim, ...]:
    paper = "Apolinario et al. 2024"
    return (
        Claim("S208", "Training needs about half of the memory of backpropagation: one layer's input is alive.",
              f"{paper}, abstract and figure of memory", "arena", "update=full", "reduction", 2.0,
              "a layer's input, output and gradient are alive against the outputs of four layers; at batch 1 the local "
              "loss's own vectors are an eighth of that", at_least=1.4),
        Claim("S208", "The same, as the device has it: what a step has written of the arena.",
              f"{paper}, abstract", "peak_ram.activations", "update=full", "reduction", 2.0, "as above", at_least=1.3),
        Claim("S208", "The same with the trained variables.", f"{paper}, abstract", "memory.m4", "update=full",
              "reduction", None, "weights of a perceptron outweigh its activations at batch 1 by 90 to 1, and are "
              "the same in both: our scale cannot show it"),
        Claim("S208", "A step takes fewer multiply-accumulates than backpropagation: no gradient of a layer's input.",
              f"{paper}, section on computation; no figure against backpropagation", "macs.step", "update=full",
              "reduction", None, "two thirds of the products, plus the hidden layers' scores", at_least=1.2),
        Claim("S208", "Which pays off in what the core executes.", "no figure", "instructions", "update=full",
              "reduction", None, "norms, roots and exponentials of each layer's loss are many steps for vectors this "
              "short", region="train.step", at_least=1.0),
        Claim("S208", "And in the energy of a step.", "no figure", "energy", "update=full", "reduction", None,
              "as above", region="train.step"),
        Claim("S208", "Accuracy is near that of backpropagation.",
              f"{paper}, tables: 0.5 to 3 points below; .976 against .981 on digits in our reference runs", "accuracy",
              "update=full", "difference", -0.005, "one pass of plain SGD with one sample a step, one rate for all "
              "arms", at_least=-0.05),
        Claim("S208", "It learns what a classifier on random layers cannot.", "no figure", "accuracy", "update=last",
              "difference", None, "128 random units a layer are already good features for ten digits", at_least=0.0),
        Claim("S208", "It is better than biases alone.", "no figure", "accuracy", "update=bias", "difference", None,
              "a cheap arm that needs a backward pass through all layers"),
    )  # fmt: skip


PAPER = Variant(
    "paper", scratch_images.CIFAR10, samples=5120, evaluated=512, rate=0.03, target=0.2, network="small-conv",
    channels=32, batch=128, norm="batch",
)  # fmt: skip
"""SmallConv: as many images as minutes allow; the paper shows all of CIFAR-10 a hundred times."""
_NETWORKS = one_of("network", ("mlp", "small-conv"), "mlp, small-conv; others with size=paper")
SIZES: Sizes = {
    "ci": (Variant(), (*ALLOWED, _NETWORKS, *BATCHES)),
    "paper": (PAPER, (*PAPER_ALLOWED, one_of("network", ("mlp", *CONVOLUTIONAL)), *BATCHES)),
}
MODULATIONS = ("none", "class", "matrix")


class Lls:
    """The workload. Variants: ``update=local|full|last|bias``, ``modulation=none|class|matrix``,
    ``layers=together|one-by-one``, ``network=mlp|small-conv``, ``depth=``, ``width=32|64|128|256``,
    ``channels=4|8|16``, ``batch=1…128``, ``norm=map|batch``, ``samples=``, ``epochs=``, ``rate=``, ``evaluated=``,
    ``target=``, separated by commas. With ``size=paper``
    ``data=cifar10|cifar100|mnist|fashion-mnist|kmnist|imagenette|tiny-imagenet|vww``, ``network=vgg8|mobilenet``,
    ``channels=32|64|128`` and defaults of its own, :data:`PAPER`.
    """

    id: str = "lls"
    title: str = "Layers that learn by a fixed periodic basis, without a backward pass (LLS), on digits"
    family: str = "training"
    systems: tuple[str, ...] = ("S208",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = BASELINES
    claims: tuple[Claim, ...] = _claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = read_local(self.id, SIZES, variant, MODULATIONS)
        if (chosen.size, chosen.network, chosen.norm) == ("ci", "small-conv", "map"):
            # Four values are normalised of the last maps: a difference grows tenfold in some 400 steps at rate 0.003.
            raise ConfigError(
                f"{self.id}: network=small-conv with norm=map on maps of 8x8 pixels: two machines' ways part",
                hint="norm=batch and a batch=, or size=paper",
            )
        words = "each layer by cross-entropy against a periodic basis"
        return prepare_local(self.id, words, chosen, "periodic", cache, Path(__file__))


WORKLOAD = Lls()
