"""The source network of the adaptation workloads, trained on clean digits, and the streams it meets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lab.errors import ConfigError
from lab.workloads import cache as cached
from lab.workloads.adaptation import paper_size
from lab.workloads.adaptation.options import BATCHED, EARLY_STRIDES, NETWORKS, STRIDES, Options
from lab.workloads.base import Dataset, FloatArray
from lab.workloads.data import cifar10, corruptions, digits
from lab.workloads.data.corruptions import CLEAN, CORRUPTIONS, SEVERITIES, Segment, Stream
from lab.workloads.fitting import Plan

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.workloads.adaptation.reference import State

SEED = 1
HELD_OUT_SHARE = 0.4
PLAN = Plan(epochs=15, batch=64, learning_rate=4e-3, label_smoothing=0.0)
STATES: Mapping[str, tuple[str, int]] = {
    "clean": (CLEAN, 1),
    "noise": ("gauss", 3),
    "light": ("brightness", 3),
    "contrast": ("contrast", 3),
}
"""Source states that on-demand adaptation chooses from, and the generic shift of the training images each is for."""
STATE_IMAGES = 256
VARIED_SEVERITIES = (3, 5)
"""Of the corruptions that a network of the host's has learnt as well."""
_HERE = Path(__file__).parent
SOURCES = (
    *_HERE.glob("*.py"),
    _HERE.parent / "fitting.py",
    *(_HERE.parent / "networks" / f"{name}.py" for name in ("blocks", "resnet", "wide_resnet", "weight_files")),
    *(_HERE.parent / "data" / f"{name}.py" for name in ("cifar10", "folders")),
    _HERE.parent / "data" / "corruptions.py",
    _HERE.parent / "data" / "digits.py",
)


def segments(options: Options) -> tuple[Segment, ...]:
    """What a stream goes through."""
    kinds = cifar10.CORRUPTIONS if options.size == "paper" else CORRUPTIONS
    clean = Segment(CLEAN, 1, max(1, options.length // 2))
    if options.stream == "clean":
        return (Segment(CLEAN, 1, options.length),)
    if options.stream == "shifts":
        return (clean, *(Segment(one, options.severity, options.length) for one in options.corruptions()), clean)
    each = [Segment(kind, severity, 1) for kind in kinds for severity in SEVERITIES]
    order = np.random.default_rng(SEED)
    rounds = [[each[place] for place in order.permutation(len(each))] for _ in range(-(-options.length // len(each)))]
    return tuple(one for some in rounds for one in some)[: options.length]


def stream(options: Options) -> Stream:
    """What :func:`stream_and_data` yields, without the data's name."""
    return stream_and_data(options)[0]


def stream_and_data(options: Options) -> tuple[Stream, Dataset]:
    """Held-out images in the order and under the shifts that the options ask for.

    At the paper's size the digest of the data covers the user's networks too.

    Raises:
        ConfigError: the stream is no whole number of batches, or a user's folder lacks something.
    """
    if options.size == "paper":
        found, images = paper_size.stream(segments(options), options.only, options.network)
        digest = hashlib.sha256("".join([images, *paper_size.digests(options)]).encode()).hexdigest()
        name, side = cifar10.CIFAR10_C.name, cifar10.SIDE
    else:
        found, digest = _digits_stream(options), digits.digest(digits.find())
        name, side = digits.SOURCE, corruptions.IMAGE
    if options.method in BATCHED and len(found) % options.batch:
        raise ConfigError(
            f"the stream has {len(found)} samples, which is no whole number of batches of {options.batch}",
            hint="another length= or batch=",
        )
    return found, Dataset(name, digest, len(found), f"{side}x{side} pixels, stream: {options.stream}.")


def _digits_stream(options: Options) -> Stream:
    images = digits.load()
    _, held_out = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    if options.only >= 0:
        held_out = held_out[images.digits[held_out] == options.only]
    pixels = corruptions.enlarged(images.pixels[held_out])
    return corruptions.stream(pixels, images.digits[held_out], segments(options), SEED)


def training_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Clean images (n, 1, 16, 16) and labels (n,) that the source network learns."""
    import torch

    images = digits.load()
    training, _ = digits.stratified_split(images.digits, HELD_OUT_SHARE, SEED)
    pixels = corruptions.enlarged(images.pixels[training])
    return torch.from_numpy(pixels)[:, None], torch.from_numpy(images.digits[training])


def learnt_images(options: Options) -> tuple[torch.Tensor, torch.Tensor]:
    """Clean images and labels that the source network has learnt, of the options' size.

    Raises:
        ConfigError: at the paper's size, as :func:`lab.workloads.data.cifar10.cifar10`.
    """
    import torch

    if options.size != "paper":
        return training_images()
    images, labels = paper_size.learnt(options.network)
    return torch.from_numpy(images), torch.from_numpy(labels)


def calibration_images(options: Options) -> torch.Tensor:
    """Clean training images (n, channels, height, width) that set the ranges of an int8 network.

    Raises:
        ConfigError: at the paper's size, as :func:`lab.workloads.data.cifar10.cifar10`.
    """
    import torch

    if options.size != "paper":
        return training_images()[0]
    return torch.from_numpy(paper_size.shifted(CLEAN, 1, options.network))


def source_network(network: str, cache: Path) -> nn.Sequential:
    """The trained network, in evaluation mode; cached, since every method starts from it. Or one of the user's."""
    if network not in NETWORKS:
        return paper_size.source_network(network)[0]
    return _trained("adaptation-source", network, cache, training_images)


def foundation_network(options: Options, cache: Path) -> nn.Sequential:
    """The network of the host, in evaluation mode; it has learnt :func:`varied_images`, and is cached. Or one of the
    user's."""
    network, met = options.foundation, options.corruptions()
    if network not in NETWORKS:
        return paper_size.source_network(network)[0]
    return _trained("adaptation-foundation", network, cache, lambda: varied_images(met), "+".join(sorted(met)))


def _trained(
    kind: str,
    network: str,
    cache: Path,
    material: Callable[[], tuple[torch.Tensor, torch.Tensor]],
    unseen: str = "",
) -> nn.Sequential:
    import torch

    from lab.workloads.fitting import fit, seeded

    parts = {"network": network, "plan": json.dumps(asdict(PLAN)), "data": digits.digest(digits.find()),
             "unseen": unseen, "torch": version("torch"), "numpy": version("numpy")}  # fmt: skip

    def produce() -> cached.Entry:
        images, labels = material()
        with seeded(SEED):
            made = _untrained(network)
            fit(made, images, labels, PLAN, SEED, f"{kind}: training {network} on {len(images)} images")
        state = made.state_dict()
        arrays = {f"tensor_{n}": tensor.numpy() for n, tensor in enumerate(state.values())}
        return cached.Entry(json.dumps(list(state)), arrays)

    sources = [_HERE / "source.py", _HERE / "networks.py", _HERE.parent / "fitting.py", *SOURCES[-2:]]
    entry = cached.obtain(cache / "workloads", kind, cached.key(parts, sources), produce)
    made = _untrained(network)
    values = [torch.from_numpy(np.array(entry.arrays[f"tensor_{n}"])) for n in range(len(entry.arrays))]
    made.load_state_dict(dict(zip(json.loads(entry.document), values, strict=True)))
    return made.eval()


def varied_images(met: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`training_images`, and each once more under a corruption that the stream goes not through.

    Args:
        met: corruptions of the stream ``shifts``.
    """
    import torch

    images, labels = training_images()
    generator = np.random.default_rng(SEED)
    kinds = [(kind, severity) for kind in CORRUPTIONS if kind not in met for severity in VARIED_SEVERITIES]
    chosen = generator.integers(len(kinds), size=len(images))
    varied = np.empty_like(images[:, 0].numpy())
    for number, (kind, severity) in enumerate(kinds):
        of_kind = np.flatnonzero(chosen == number)
        varied[of_kind] = corruptions.corrupt(images[of_kind, 0].numpy(), kind, severity, generator)
    return torch.cat([images, torch.from_numpy(varied)[:, None]]), labels.repeat(2)


def _untrained(network: str) -> nn.Sequential:
    from lab.workloads.adaptation import networks

    strides = EARLY_STRIDES if network == "deep" else STRIDES
    return networks.source_network(NETWORKS[network], strides)


def source_states(network: nn.Sequential, options: Options) -> list[State]:
    """The first source states: the network's own, and its moments under generic shifts of training images."""
    import torch

    from lab.workloads.adaptation.networks import MovingNetwork
    from lab.workloads.adaptation.reference import State, moment_names, moments_of, signature_of

    generator = np.random.default_rng(SEED)
    clean = MovingNetwork(network)
    found: list[State] = []
    for name, (kind, severity) in list(STATES.items())[: options.states]:
        if options.size == "paper":
            shifted = paper_size.shifted(kind, severity, options.network)
        else:
            shifted = _shifted(kind, severity, generator)
        samples = torch.from_numpy(shifted)
        if kind == CLEAN:
            own = dict(clean.named_parameters())
            variables = {one: own[one].detach().numpy().copy() for one in moment_names(clean)}
        else:
            variables = moments_of(MovingNetwork(network), samples)
        # All signatures under the clean state, as the device computes its own.
        found.append(State(name, signature_of(clean, samples), variables))
    return found


def _shifted(kind: str, severity: int, generator: np.random.Generator) -> FloatArray:
    """Training digits under a corruption, (n, 1, 16, 16)."""
    images, _ = training_images()
    return corruptions.corrupt(images[:STATE_IMAGES, 0].numpy(), kind, severity, generator)[:, None]
