"""The paper's size of training workloads: a pre-trained network and a folder of images, both the user's own.

The network is one that Lin et al., "On-Device Training Under 256KB Memory", 2022, and Kwon et al., "TinyTrain", 2024,
train at 128 pixels, or that of Cai et al., "TinyTL", 2020, and Yang et al., "Rep-Net", 2022, at 224. Its weights are
read from ``networks/``, what it is trained on from ``images/``. The last layer is new, since the classes are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args

import numpy as np

from lab.workloads.base import Dataset
from lab.workloads.data import image_folder
from lab.workloads.data.labelled import Labelled
from lab.workloads.options import Allowed, one_of, within
from lab.workloads.training.turned_digits import SEED, Data

if TYPE_CHECKING:
    from torch import nn

    from lab.compiler.update_schemes import UpdateScheme

PaperNetwork: TypeAlias = Literal["mcunet", "mobilenet-v2", "proxylessnas"]
NETWORKS: tuple[PaperNetwork, ...] = get_args(PaperNetwork)
MOBILE = "proxylessnas-mobile"
"""The network of TinyTL's and Rep-Net's own papers, at :data:`MOBILE_SIDE` pixels; no sparse update is published."""
SIDE, MOBILE_SIDE = 128, 224
IMAGES = (64, 128, 192, 256)
"""Networks halve their maps five times; at :data:`MOBILE_SIDE` the last of these are odd, which branches put up with,
and gradients on patches do not."""
MOST_IMAGES = 100_000
SCHEMES = ("49kb", "99kb", "148kb")
"""Of the published sparse updates, by the extra memory they are named after; MobileNetV2's and ProxylessNAS's are the
nearest ones."""


def folder(option: str) -> Allowed:
    """An option that names a folder of images; whether it is there is known when it is read."""
    words = f"{option}=NAME, a folder below images/ in LAB_DATA"
    return Allowed(option, lambda value: isinstance(value, str) and bool(value), words)


_ALLOWED: tuple[Allowed, ...] = (
    one_of("size", ("paper",)),
    folder("data"),
    within("samples", 1, MOST_IMAGES),
    within("epochs", 1, 100),
    within("rate", 1e-6, 10),
    within("evaluated", 1, MOST_IMAGES),
    within("target", 0.01, 1),
)


def allowed(networks: Sequence[str] = NETWORKS, images: Sequence[int] = IMAGES) -> tuple[Allowed, ...]:
    """What the options of this size may be; by default that of networks with published sparse updates."""
    return (one_of("network", networks), one_of("image", images), *_ALLOWED)


ALLOWED = allowed()
BRANCHED = allowed((*NETWORKS, MOBILE), (*IMAGES, MOBILE_SIDE))
"""The same of branches beside a frozen network."""


class Options(Protocol):
    """What a variant of this size has."""

    @property
    def network(self) -> str: ...
    @property
    def data(self) -> str: ...
    @property
    def image(self) -> int: ...
    @property
    def samples(self) -> int: ...
    @property
    def evaluated(self) -> int: ...


@dataclass(frozen=True)
class OwnImages:
    """What is trained on and what is asked, as it was read.

    Attributes:
        training, asked: uint8 (n, 3, side, side), in a seeded order.
    """

    training: Labelled[np.uint8]
    asked: Labelled[np.uint8]

    def dataset(self, weights: str, evaluated: int) -> Dataset:
        """For the record; its digest is of both parts and of the network's weights (SHA-256, hex)."""
        read = "".join((self.training.digest, self.asked.digest, weights))
        note = f"{len(self.training.classes)} classes; the digest is of images and weights."
        digest = hashlib.sha256(read.encode()).hexdigest()
        return Dataset(self.training.name, digest, min(evaluated, len(self.asked)), note)

    def data(self) -> Data:
        """The images as networks take them, −1 … 1; there is no other kind that the network was seen to know."""
        import torch

        pixels = np.concatenate([self.training.samples, self.asked.samples]).astype(np.float32)
        images = torch.from_numpy(pixels / np.float32(127.5) - np.float32(1))
        labels = torch.from_numpy(np.concatenate([self.training.labels, self.asked.labels]))
        border = len(self.training)
        return Data(images, images, labels, np.arange(border), np.arange(border, len(labels)))


def read(options: Options) -> OwnImages:
    """So many images of each class that ``samples`` and ``evaluated`` can be taken.

    Raises:
        ConfigError: as :func:`lab.workloads.data.image_folder.load`.
    """
    classes = len(image_folder.classes(options.data))

    def part(name: image_folder.Part, wanted: int) -> Labelled[np.uint8]:
        found = image_folder.load(options.data, name, options.image, -(-wanted // classes))
        return found.at(np.random.default_rng(SEED).permutation(len(found)))

    return OwnImages(part("train", options.samples), part("test", options.evaluated))


def network(options: Options, classes: int) -> tuple[nn.Module, str]:
    """The pre-trained network with a new last layer, batch norm folded; and the SHA-256, hex, of its weights' file.

    Raises:
        ConfigError: as :func:`lab.workloads.networks.weight_files.load`.
    """
    from lab.workloads.fitting import seeded
    from lab.workloads.networks import folded
    from lab.workloads.networks.weight_files import load

    with seeded(SEED):
        made = untrained(options.network, classes)
    digest = load(made, options.network, head="classifier")
    return folded(made), digest


def untrained(name: str, classes: int) -> nn.Sequential:
    """One of :data:`NETWORKS`, or :data:`MOBILE`, with fresh weights from torch's global random state."""
    from lab.workloads.networks import mcunet_5fps, mobilenet_v2, proxylessnas_mobile, proxylessnas_w03

    if name == "mobilenet-v2":
        return mobilenet_v2(classes=classes)
    made = {"mcunet": mcunet_5fps, "proxylessnas": proxylessnas_w03, MOBILE: proxylessnas_mobile}
    return made[name](classes)


def sparse_scheme(network: str, scheme: str) -> UpdateScheme:
    """The published sparse update of a network that is named after ``scheme`` of extra memory, or the nearest to it."""
    from lab.compiler.update_schemes import MCUNET_SCHEMES, MOBILENET_V2_SCHEMES, PROXYLESSNAS_SCHEMES

    tables = {"mcunet": MCUNET_SCHEMES, "mobilenet-v2": MOBILENET_V2_SCHEMES, "proxylessnas": PROXYLESSNAS_SCHEMES}
    wanted = int(scheme.removesuffix("kb"))
    table = tables[network]
    return table[min(table, key=lambda name: abs(int(name.removesuffix("kb")) - wanted))]
