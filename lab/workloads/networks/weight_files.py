"""Weights that a user has: files of PyTorch in ``networks/`` of the folder that ``LAB_DATA`` names."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping

import torch
from torch import nn

from lab.workloads.data.folders import Reader, Source

NETWORK_FILES = Source(
    name="pre-trained networks",
    folder="networks",
    origin="trained by you, or a public checkpoint of the same network",
    licence="whatever it comes under",
    layout="NAME.pt, written by torch.save(network.state_dict(), 'NAME.pt')",
)


def digest_of(name: str) -> str:
    """SHA-256, hex, of ``networks/NAME.pt``.

    Raises:
        ConfigError: ``LAB_DATA`` has no such file.
    """
    reader = Reader(NETWORK_FILES)
    reader.read(f"{name}.pt")
    return reader.digest()


def load(network: nn.Module, name: str, *, head: str = "") -> str:
    """Give a network the weights of ``networks/NAME.pt``.

    A checkpoint may have other names for its tensors: they are taken in order, and every shape must agree. Counters of
    batch norm are passed over.

    Args:
        network: changed in place.
        name: of the file, without its ending.
        head: name of a last layer that keeps its own weights where the file's is for other classes.

    Returns:
        SHA-256, hex, of the file.

    Raises:
        ConfigError: ``LAB_DATA`` has no such file, it is none of PyTorch's with tensors alone, or of another network.
    """
    reader = Reader(NETWORK_FILES)
    where = reader.root / f"{name}.pt"
    content = reader.read(f"{name}.pt")
    try:
        # Tensors alone: a pickle that could run code is refused by PyTorch itself.
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise NETWORK_FILES.refused(f"{where} is no file of tensors: {str(error).splitlines()[0]}") from error
    if not isinstance(found, Mapping) or not all(isinstance(one, torch.Tensor) for one in found.values()):
        raise NETWORK_FILES.refused(f"{where} holds something else than named tensors")
    theirs = [one for key, one in found.items() if not key.endswith("num_batches_tracked")]
    state = network.state_dict()
    ours = [key for key in state if not key.endswith("num_batches_tracked")]
    if len(theirs) != len(ours):
        raise NETWORK_FILES.refused(f"{where} has {len(theirs)} tensors, {name} has {len(ours)}")
    for key, tensor in zip(ours, theirs, strict=True):
        if tensor.shape == state[key].shape:
            state[key] = tensor.to(state[key].dtype)
        elif not head or not key.startswith(f"{head}."):
            raise NETWORK_FILES.refused(
                f"{where}: the tensor for {key} is of shape {tuple(tensor.shape)}, {name} has {tuple(state[key].shape)}"
            )
    if not all(bool(torch.isfinite(one).all()) for one in state.values()):
        raise NETWORK_FILES.refused(f"{where} holds values that are no numbers")
    network.load_state_dict(state)
    return reader.digest()
