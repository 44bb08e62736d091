"""What PyTorch on the device is to run, with what PyTorch on this computer comes to: training by autograd."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lab import progress
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import TorchProgram

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Steps:
    """Steps of one image each, by plain gradient descent.

    Attributes:
        chosen: places of the images that are trained on, in order.
        asked: places of those that are read afterwards.
        epochs: passes over the chosen ones.
        rate: learning rate.
        seed: of what the network draws.
    """

    chosen: npt.NDArray[np.int64]
    asked: npt.NDArray[np.int64]
    epochs: int
    rate: float
    seed: int


def produce(
    workload: str, network: nn.Module, train: Collection[str], images: torch.Tensor, labels: torch.Tensor, steps: Steps
) -> cached.Entry:
    """Train a network and keep it as it was before, as ``torch.export`` saves it, with losses and later outputs.

    Args:
        workload: for the line of progress.
        network: is changed.
        train: names of its parameters that change, whole, since PyTorch knows no part of a tensor.
        images, labels: of which ``steps`` chooses.
        steps: what is trained.
    """
    import torch

    from lab.workloads.fitting import seeded
    from lab.workloads.networks import exported, logits

    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in train)
    archive = exported(network, images[:1])
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=steps.rate)
    losses = []
    with seeded(steps.seed), progress.step(f"{workload}: training by autograd", quiet_below_s=2.0):
        for index in np.tile(steps.chosen, steps.epochs):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[index : index + 1]), labels[index : index + 1])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
        outputs = logits(network, images[steps.asked])
    arrays: dict[str, cached.AnyArray] = {
        "program": np.frombuffer(archive, np.uint8),
        "inputs": images[steps.asked].numpy(),
        "outputs": outputs.numpy(),
        "labels": labels[steps.asked].numpy(),
        "samples": images[steps.chosen].numpy(),
        "targets": labels[steps.chosen].numpy(),
        "losses": np.array(losses, np.float32),
    }
    return cached.Entry("{}", arrays)


def program(entry: cached.Entry, epochs: int, rate: float, seed: int) -> TorchProgram:
    """What :func:`produce` made, in the form in which a device is given it."""
    arrays = entry.arrays
    training = training_job(
        arrays["samples"].astype(np.float32), arrays["targets"].astype(np.int32), epochs=epochs, learning_rate=rate,
        seed=seed,
    )  # fmt: skip
    return TorchProgram(
        arrays["program"].tobytes(), arrays["inputs"].astype(np.float32), arrays["outputs"].astype(np.float32),
        arrays["labels"].astype(np.int64), training, arrays["losses"].astype(np.float32),
    )  # fmt: skip
