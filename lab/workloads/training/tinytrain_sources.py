"""What TinyTrain meta-trains, from what, and what its tasks are drawn from: characters and digits, or a user's folders.

At the paper's size the network is MCUNet, MobileNetV2 or ProxylessNAS with the weights of a user's file, which has
learnt ImageNet's classes; it is meta-trained on one folder of images, MiniImageNet in the paper, and the tasks are
drawn from another one, such as Flowers, Aircraft or CUB.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lab.errors import ConfigError
from lab.workloads.data import digits, image_folder, omniglot
from lab.workloads.data.labelled import Labelled
from lab.workloads.data.omniglot import Characters
from lab.workloads.training import own_images
from lab.workloads.training.tinytrain_arms import IMAGE, STEM_CHANNELS, Variant

if TYPE_CHECKING:
    from torch import nn

NETWORK_FILES = ("blocks", "digits_mb", "evaluation", "mcunet", "mobilenet_v2", "proxylessnas", "weight_files")
"""What the networks are made of, for keys of the cache."""
MOST_EACH = 50
"""Images of each class of a user's folder that are read, the first by name: MiniImageNet has 600, more than fit."""


class Source(Protocol):
    """Where a network, its meta-training and its tasks come from."""

    @property
    def network(self) -> str:
        """Its name, for the facts."""

    @property
    def learnt_from(self) -> str:
        """Name of what it is meta-trained on."""

    @property
    def asked_of(self) -> str:
        """Name of what tasks are drawn from."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of an image."""

    @property
    def digest(self) -> str:
        """SHA-256, hex, of what tasks are drawn from."""

    def identity(self) -> Mapping[str, str]:
        """All that the meta-trained network depends on, but code: parts of a key."""

    def known(self) -> Characters:
        """Classes to meta-train on."""

    def asked(self) -> Characters:
        """Classes of tasks; none of them is known."""

    def backbone(self) -> nn.Sequential:
        """The network without its classifier, as it is before meta-training."""


@dataclass(frozen=True)
class DigitsSource:
    """DigitsMB, which learns from characters, and scikit-learn's digits, enlarged."""

    network: str = "DigitsMB"
    asked_of: str = digits.SOURCE
    shape: tuple[int, int, int] = (1, IMAGE, IMAGE)

    @property
    def learnt_from(self) -> str:
        """Omniglot, or made characters, by ``LAB_DATA``."""
        return omniglot.name()

    @property
    def digest(self) -> str:
        """Of the digits."""
        return digits.digest(digits.find())

    def identity(self) -> Mapping[str, str]:
        """The characters, and their size."""
        return {"data": omniglot.digest(), "image": str(IMAGE)}

    def known(self) -> Characters:
        """The characters."""
        return omniglot.background(IMAGE)[0]

    def asked(self) -> Characters:
        """The digits: as many of each."""
        import torch
        from torch.nn import functional

        found = digits.load()
        pixels = torch.from_numpy(found.pixels)[:, None]
        large = functional.interpolate(pixels, size=(IMAGE, IMAGE), mode="bilinear")[:, 0].numpy()
        each = int(np.bincount(found.digits).min())
        by_class = np.stack([large[found.digits == digit][:each] for digit in range(digits.CLASSES)])
        return Characters(by_class, tuple(map(str, range(digits.CLASSES))), digits.SOURCE, found.digest)

    def backbone(self) -> nn.Sequential:
        """DigitsMB with fresh weights from torch's global random state: 48 features."""
        from lab.workloads.networks import BottleneckNet
        from lab.workloads.networks.digits_mb import ROWS

        return without_classifier(BottleneckNet((1, STEM_CHANNELS), ROWS, 1))


DIGITS = DigitsSource()


@dataclass(frozen=True)
class OwnSource:
    """A user's network and two folders of images, as they were read.

    Attributes:
        trained: the network with the weights of the user's file.
        weights: SHA-256, hex, of that.
        images, tasks: what it is meta-trained on, and what tasks are drawn from: uint8 (n, 3, side, side).
    """

    network: str
    trained: nn.Sequential
    weights: str
    images: Labelled[np.uint8]
    tasks: Labelled[np.uint8]

    @property
    def learnt_from(self) -> str:
        """The file and the folder."""
        return f"ImageNet or the like (the weights in networks/{self.network}.pt) and {self.images.name}"

    @property
    def asked_of(self) -> str:
        """The other folder."""
        return self.tasks.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image."""
        channels, rows, columns = self.images.samples.shape[1:]
        return channels, rows, columns

    @property
    def digest(self) -> str:
        """Of the other folder."""
        return self.tasks.digest

    def identity(self) -> Mapping[str, str]:
        """Weights and images."""
        return {"network": self.network, "weights": self.weights, "data": self.images.digest, "shape": str(self.shape)}

    def known(self) -> Characters:
        """Classes of the one folder."""
        return _by_class(self.images)

    def asked(self) -> Characters:
        """Classes of the other."""
        return _by_class(self.tasks)

    def backbone(self) -> nn.Sequential:
        """A copy, with the user's weights."""
        return without_classifier(copy.deepcopy(self.trained))


def own_source(variant: Variant) -> OwnSource:
    """Read a user's network, what it is meta-trained on (``train/``) and what tasks are drawn from (``test/``).

    Raises:
        ConfigError: both are the same folder, or as :func:`lab.workloads.data.image_folder.load` and
            :func:`lab.workloads.networks.weight_files.load`.
    """
    from lab.workloads.networks.weight_files import load

    if variant.meta == variant.data:
        raise ConfigError(
            f"tinytrain: meta={variant.meta} and data={variant.data} are the same images, and tasks are to be of "
            "classes that the network has not seen",
            hint="two folders below images/ in LAB_DATA: meta=mini-imagenet,data=flowers",
        )
    made = own_images.untrained(variant.network, 1)
    weights = load(made, variant.network, head="classifier")
    images = image_folder.load(variant.meta, "train", variant.image, MOST_EACH)
    tasks = image_folder.load(variant.data, "test", variant.image, MOST_EACH)
    return OwnSource(variant.network, made, weights, images, tasks)


def without_classifier(network: nn.Module) -> nn.Sequential:
    """All parts of a network but its last layer, whose input are features (n, depth)."""
    from torch import nn

    return nn.Sequential(OrderedDict((name, part) for name, part in network.named_children() if name != "classifier"))


def _by_class(images: Labelled[np.uint8]) -> Characters:
    """As many of each class as the smallest has: float32 (classes, images, 3, side, side), 0 … 1."""
    each = int(np.bincount(images.labels, minlength=len(images.classes)).min())
    chosen = [images.samples[images.labels == label][:each] for label in range(len(images.classes))]
    pixels = np.stack(chosen).astype(np.float32) / np.float32(255)
    return Characters(pixels, images.classes, images.name, images.digest)
