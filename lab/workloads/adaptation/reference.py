"""The same streams in PyTorch on this computer: what a device's answers are compared with. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lab.compiler.joint import Loss
from lab.workloads.adaptation.meta_networks import MOMENTUM, MetaNetwork, meta_names
from lab.workloads.adaptation.networks import MovingNetwork, confident_entropy, entropy, gated_entropy
from lab.workloads.adaptation.options import CLASSES, Detector

FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class State:
    """A state that the network can start to adapt from: where its domain lies, and every variable by name."""

    name: str
    signature: FloatArray
    variables: dict[str, FloatArray]


@dataclass(frozen=True)
class Outcome:
    """What comes of a stream.

    Attributes:
        outputs: float32 (samples, values).
        adapted: the samples (or batches) at whose end the network changed.
        states: names of the source states taken, one for each of ``adapted``; empty where there are none.
        variables: after the stream, by name.
        uploaded: the samples that the host was sent, where it is the host that adapts.
        received: how often the network was sent new values by the host.
    """

    outputs: FloatArray
    adapted: tuple[int, ...]
    states: tuple[str, ...]
    variables: dict[str, FloatArray]
    uploaded: tuple[int, ...] = ()
    received: int = 0


def softmax_entropy(logits: FloatArray) -> float:
    """Entropy of one sample's softmax, nats."""
    below = logits.astype(np.float64) - float(logits.max())
    shares = np.exp(below)
    total = float(shares.sum())
    return float(np.log(total) - (shares * below).sum() / total)


class Watch:
    """The detector at work."""

    def __init__(self, settings: Detector) -> None:
        self._settings = settings
        self.restart()

    def restart(self) -> None:
        """Begin anew with the next sample."""
        self._average = self._base = 0.0
        self._seen = 0

    def sees(self, logits: FloatArray) -> bool:
        """Take a sample's logits; whether the average has left its base."""
        self._seen += 1
        weight = max(self._settings.weight, 1 / self._seen)
        self._average += weight * (softmax_entropy(logits) - self._average)
        if self._seen == self._settings.settle:
            self._base = self._average
        return self._seen > self._settings.settle and abs(self._average - self._base) > self._settings.threshold


@torch.no_grad()
def unchanged(network: nn.Module, samples: torch.Tensor, batch: int) -> FloatArray:
    """Outputs of a network that keeps nothing from batch to batch: (samples, classes)."""
    made = [_parts(network(samples[begin : begin + batch]))[0] for begin in range(0, len(samples), batch)]
    return np.concatenate([one.numpy() for one in made])


def _parts(made: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Output and penalty of a network that may have none."""
    return made if isinstance(made, tuple) else (made, torch.zeros(()))


def tent(network: nn.Sequential, samples: torch.Tensor, batch: int, rate: float) -> Outcome:
    """TENT by ``torch.optim.Adam`` (Wang et al. 2021, section 3.2): predictions are those before each step."""
    trained = _named(network, affine_names(network))
    return _descent(network, samples, batch, trained, torch.optim.Adam(trained.values(), lr=rate, fused=True), entropy)


def eco(network: MetaNetwork, samples: torch.Tensor, batch: int, rate: float) -> Outcome:
    """EcoTTA by ``torch.optim.SGD``: predictions are those before each step."""
    trained = _named(network, meta_names(network))
    optimizer = torch.optim.SGD(trained.values(), rate, MOMENTUM)
    return _descent(network, samples, batch, trained, optimizer, confident_entropy)


def _named(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    return {name: one for name, one in network.named_parameters() if name in names}


def _descent(
    network: nn.Module,
    samples: torch.Tensor,
    batch: int,
    trained: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
) -> Outcome:
    outputs: list[FloatArray] = []
    for begin in range(0, len(samples), batch):
        output, penalty = _parts(network(samples[begin : begin + batch]))
        outputs.append(output.detach().numpy().copy())
        optimizer.zero_grad()
        torch.autograd.backward([loss(output, torch.zeros(1)) + penalty])
        optimizer.step()
    return Outcome(np.concatenate(outputs), tuple(range(len(outputs))), (), _copied(trained))


def affine_names(network: nn.Module) -> list[str]:
    """Scale and shift of every batch norm."""
    return [
        f"{name}.{own}"
        for name, layer in network.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
        for own, _ in layer.named_parameters()
    ]


def moment_names(network: MovingNetwork) -> list[str]:
    """The statistics of a network whose statistics move."""
    return [name for name, _ in network.named_parameters() if name.endswith((".mean", ".square"))]


def variable_names(network: MovingNetwork) -> list[str]:
    """All that changes: the statistics, and scale and shift where these are variables."""
    own = {id(one) for norm in network.norms() for one in norm.parameters()}
    return [name for name, one in network.named_parameters() if id(one) in own]


def _copied(parameters: dict[str, nn.Parameter]) -> dict[str, FloatArray]:
    return {name: one.detach().numpy().copy() for name, one in parameters.items()}


def signature_of(network: MovingNetwork, samples: torch.Tensor) -> FloatArray:
    """Mean of the signatures of samples under the network's present state."""
    with torch.no_grad():
        return np.asarray(network(samples).output[:, CLASSES:].mean(0).numpy(), np.float32)


def moments_of(network: MovingNetwork, samples: torch.Tensor) -> dict[str, FloatArray]:
    """What the variables are when each layer is normalised by the statistics of all these samples."""

    def take(norm: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        mean, square = given[0].mean((0, 2, 3)), (given[0] * given[0]).mean((0, 2, 3))
        load(norm, {"mean": mean.numpy(), "square": square.numpy()})

    hooks = [norm.register_forward_pre_hook(take) for norm in network.norms()]
    with torch.no_grad():
        network(samples)
    for hook in hooks:
        hook.remove()
    return _copied({name: one for name, one in network.named_parameters() if name in moment_names(network)})


def load(network: nn.Module, values: dict[str, FloatArray]) -> None:
    """Give parameters these values."""
    parameters = dict(network.named_parameters())
    with torch.no_grad():
        for name, value in values.items():
            parameters[name].copy_(torch.from_numpy(value))


def on_demand(
    network: MovingNetwork,
    samples: torch.Tensor,
    states: Sequence[State],
    detector: Detector,
    cached: int,
    compared: int,
    affine: float = 0.0,
) -> Outcome:
    """OD-TTA: detection, source selection and decoupled batch norm, by PyTorch's autograd and SGD.

    ``affine`` is the rate of its affine pass; there is none with 0.
    """
    variables = _named(network, variable_names(network))
    watch, outputs, adapted, taken = Watch(detector), [], [], []
    caching_since: int | None = None
    for index in range(len(samples)):
        with torch.no_grad():
            outputs.append(network(samples[index : index + 1]).output[0].numpy().copy())
        has_left = watch.sees(outputs[-1][:CLASSES])
        if caching_since is not None and index - caching_since == cached:
            kept = samples[caching_since + 1 : index + 1]
            state = _nearest(network, kept[:compared], states)
            load(network, state.variables)
            _average(network, kept, variables)
            if affine:
                _descend_affine(network, kept, variables, affine)
            watch.restart()
            adapted.append(index)
            taken.append(state.name)
            caching_since = None
        elif caching_since is None and has_left:
            caching_since = index
    return Outcome(np.stack(outputs), tuple(adapted), tuple(taken), _copied(variables))


def _nearest(network: MovingNetwork, samples: torch.Tensor, states: Sequence[State]) -> State:
    """The state whose signature is nearest to that of the samples under the first state."""
    if len(states) == 1:
        return states[0]
    load(network, states[0].variables)
    own = np.mean([signature_of(network, sample[None]) for sample in samples], axis=0)
    return min(states, key=lambda one: float(((one.signature - own) ** 2).sum()))


def _average(network: MovingNetwork, samples: torch.Tensor, variables: dict[str, nn.Parameter]) -> None:
    for number in range(len(samples)):
        optimizer = torch.optim.SGD(variables.values(), lr=1 / (number + 2))
        optimizer.zero_grad()
        network(samples[number : number + 1]).penalty.backward()
        optimizer.step()


def _descend_affine(
    network: MovingNetwork, samples: torch.Tensor, variables: dict[str, nn.Parameter], rate: float
) -> None:
    """The statistics go on with the same rate, which moves them by next to nothing: one program has one rate."""
    optimizer = torch.optim.SGD(variables.values(), lr=rate)
    for sample in samples:
        optimizer.zero_grad()
        made = network(sample[None])
        torch.autograd.backward([gated_entropy(made.output, torch.ones(1)) + made.penalty])
        optimizer.step()
