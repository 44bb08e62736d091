"""Networks that a preparation trains once and several variants begin with: their state, cached by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lab.workloads import cache as cached
from lab.workloads import fitting

if TYPE_CHECKING:
    from torch import nn

    N = TypeVar("N", bound=nn.Module)


def trained(
    network: N, cache: Path, name: str, parts: Mapping[str, str], sources: Iterable[Path], train: Callable[[], None]
) -> N:
    """``network`` in evaluation mode, with the state that ``train`` gives it, trained at most once.

    Args:
        network: untrained; filled in place.
        cache: cache folder of the lab.
        name: readable begin of the file's name.
        parts: what the state depends on, as text: data, plan, seed.
        sources: files it depends on besides :mod:`lab.workloads.fitting`.
        train: trains ``network`` in place.

    Raises:
        ConfigError: the cache cannot be written.
    """
    import torch

    def produce() -> cached.Entry:
        train()
        state = network.state_dict()
        arrays = {f"tensor_{number}": tensor.numpy() for number, tensor in enumerate(state.values())}
        return cached.Entry(json.dumps(list(state)), arrays)

    versions = {package: version(package) for package in ("numpy", "torch")}
    key = cached.key({**parts, **versions}, [*sources, Path(__file__), Path(fitting.__file__)])
    entry = cached.obtain(cache / "workloads", name, key, produce)
    values = (torch.from_numpy(np.array(entry.arrays[f"tensor_{number}"])) for number in range(len(entry.arrays)))
    network.load_state_dict(dict(zip(json.loads(entry.document), values, strict=True)))
    return network.eval()
