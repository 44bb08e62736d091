"""Multi-layer perceptrons."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from lab.errors import ConfigError


def mlp(sizes: tuple[int, ...] = (64, 64, 64, 10)) -> nn.Sequential:
    """Linear layers with ReLU between them, on inputs of any shape with ``sizes[0]`` elements.

    8,970 parameters and 8,832 MACs by default.

    Raises:
        ConfigError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ConfigError(f"an MLP of sizes {sizes}: it needs at least those of its input and output")
    network = nn.Sequential()
    network.add_module("flatten", nn.Flatten())
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        if number > 1:
            network.add_module(f"relu{number - 1}", nn.ReLU())
        network.add_module(f"linear{number}", nn.Linear(inputs, outputs))
    return network
