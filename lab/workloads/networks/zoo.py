"""Every network by name, with an input for it: what the compiler's checks run over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from lab.workloads.networks.bert import small_bert
from lab.workloads.networks.digits_mb import digits_mb
from lab.workloads.networks.ds_cnn import keyword_ds_cnn
from lab.workloads.networks.gru import gru_classifier
from lab.workloads.networks.imu_cnn import imu_cnn
from lab.workloads.networks.mcunet import mcunet_5fps
from lab.workloads.networks.mlp import mlp
from lab.workloads.networks.mobilenet_v2 import mobilenet_v2
from lab.workloads.networks.proxylessnas import proxylessnas_w03
from lab.workloads.networks.resnet import resnet8, resnet18
from lab.workloads.networks.vit import small_vit


@dataclass(frozen=True)
class ZooEntry:
    """A network of the zoo.

    Attributes:
        build: makes the network with fresh weights from torch's global random state.
        input_shape: shape of one sample, without the batch.
        classes: number of logits.
        vocabulary: inputs are int64 numbers below this; 0 for float32 inputs.
    """

    build: Callable[[], nn.Module]
    input_shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0

    def example(self, batch: int = 1, seed: int = 0) -> torch.Tensor:
        """A seeded random input of shape (batch, *input_shape)."""
        generator = torch.Generator().manual_seed(seed)
        if self.vocabulary:
            return torch.randint(self.vocabulary, (batch, *self.input_shape), generator=generator)
        return torch.randn(batch, *self.input_shape, generator=generator)


ZOO: Mapping[str, ZooEntry] = {
    "mlp": ZooEntry(mlp, (1, 8, 8), 10),
    "imu-cnn": ZooEntry(imu_cnn, (6, 128), 6),
    "gru": ZooEntry(gru_classifier, (7, 10), 12),
    "ds-cnn": ZooEntry(keyword_ds_cnn, (1, 49, 10), 12),
    "digits-mb-16": ZooEntry(digits_mb, (1, 16, 16), 10),
    "digits-mb-32": ZooEntry(digits_mb, (1, 32, 32), 10),
    "digits-mb-48": ZooEntry(digits_mb, (1, 48, 48), 10),
    "digits-mb-64": ZooEntry(digits_mb, (1, 64, 64), 10),
    "resnet8": ZooEntry(resnet8, (3, 32, 32), 10),
    "resnet18": ZooEntry(partial(resnet18, width=16), (3, 32, 32), 10),
    "mobilenet-v2": ZooEntry(mobilenet_v2, (3, 128, 128), 10),
    "proxylessnas": ZooEntry(proxylessnas_w03, (3, 128, 128), 10),
    "mcunet": ZooEntry(mcunet_5fps, (3, 128, 128), 10),
    "vit": ZooEntry(small_vit, (3, 32, 32), 10),
    "bert": ZooEntry(small_bert, (32,), 4, vocabulary=1000),
}
