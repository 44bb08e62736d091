"""The task of several training workloads: a network knows upright digits and is trained to read turned ones.

Data: scikit-learn's 8×8 digits, enlarged, with noise; a fifth of each digit is held out. The network is DigitsMB.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.workloads import cache as cached
from lab.workloads.data import digits
from lab.workloads.fitting import Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

IntArray: TypeAlias = npt.NDArray[np.int64]

SEED = 1
IMAGES = (16, 32, 48, 64)
HELD_OUT_SHARE = 0.2
NOISE = 0.3
CALIBRATION_IMAGES = 200
PRETRAINING = Plan(epochs=8, batch=64, learning_rate=6e-3)
_WORKLOADS = Path(__file__).parents[1]
SOURCES = (Path(__file__), _WORKLOADS / "fitting.py",
           *(_WORKLOADS / "networks" / name for name in ("blocks.py", "digits_mb.py", "evaluation.py")))  # fmt: skip
"""What data and pre-trained networks depend on, for keys of the cache."""


@dataclass(frozen=True)
class Data:
    """Upright and turned images, (n, 1, H, W), −1 … 1 and noise, labels, and who is held out."""

    upright: torch.Tensor
    turned: torch.Tensor
    labels: torch.Tensor
    training: IntArray
    held_out: IntArray

    def calibration(self) -> torch.Tensor:
        """Images of both kinds that set the ranges of int8 activations; none is held out."""
        import torch

        both = (self.upright[self.training], self.turned[self.training])
        return torch.cat([images[: CALIBRATION_IMAGES // 2] for images in both])

    def chosen(self, samples: int) -> IntArray:
        """Indices of the images that are trained on, in order."""
        return np.random.default_rng(SEED).permutation(self.training)[:samples]


def load(image: int) -> Data:
    """The task at ``image`` pixels along a side."""
    import torch

    images = digits.load()
    training, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    pixels = torch.from_numpy(images.pixels)[:, None]
    upright = 2 * torch.nn.functional.interpolate(pixels, size=(image, image), mode="bilinear") - 1
    noise = NOISE * torch.randn((2, *upright.shape), generator=torch.Generator().manual_seed(SEED))
    turned = torch.rot90(upright, 1, (2, 3)) + noise[1]
    return Data(upright + noise[0], turned, torch.from_numpy(images.digits), training, held_out)


def pretrained(image: int, data: Data, cache: Path) -> nn.Module:
    """The network that knows upright digits, batch norm folded; cached, since every update scheme starts from it."""
    import torch

    from lab.workloads.fitting import fit, seeded
    from lab.workloads.networks import digits_mb, folded

    parts = {"image": str(image), "plan": json.dumps(asdict(PRETRAINING)), "torch": version("torch"),
             "data": digits.digest(digits.find())}  # fmt: skip

    def produce() -> cached.Entry:
        with seeded(SEED):
            network = digits_mb()
            images, labels = data.upright[data.training], data.labels[data.training]
            fit(network, images, labels, PRETRAINING, SEED, f"turned digits: pre-training on {len(images)} images")
        state = network.state_dict()
        arrays = {f"tensor_{n}": tensor.numpy() for n, tensor in enumerate(state.values())}
        return cached.Entry(json.dumps(list(state)), arrays)

    entry = cached.obtain(cache / "workloads", "digits-mb", cached.key(parts, SOURCES), produce)
    network = digits_mb()
    names = json.loads(entry.document)
    network.load_state_dict({name: torch.from_numpy(np.array(entry.arrays[f"tensor_{n}"]))
                             for n, name in enumerate(names)})  # fmt: skip
    return folded(network)
