"""CEMA's two sides in PyTorch: the network of the device, and the host that adapts a copy of it. Imports torch.

Chen et al., "Towards robust and efficient cloud-edge elastic model adaptation via selective entropy distillation" (ICLR
2024, arXiv:2402.17316), section 3; rates, weights and sizes as in chenyaofo/CEMA, ``conf/cema.conf``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from lab.compiler.joint import Penalised
from lab.compiler.square_root import square_root
from lab.workloads.adaptation.entropy_filter import EntropyFilter, Thresholds
from lab.workloads.adaptation.networks import statistics, with_norms
from lab.workloads.adaptation.options import CLASSES
from lab.workloads.adaptation.reference import Outcome, softmax_entropy
from lab.workloads.base import FloatArray
from lab.workloads.fitting import seeded

SURE_NATS = 0.4 * math.log(CLASSES)
"""Entropy at which a sample weighs 1; those the network is surer of weigh more."""
FOUNDATION_RATE, EDGE_RATE, MOMENTUM = 2.5e-4, 2.5e-3, 0.9
ENTROPY_WEIGHT, DISTILLATION_WEIGHT, LABEL_WEIGHT = 3.0, 3.0, 1.0
"""α, β and γ."""
REPLAYED, REPLAYED_ALONE = 3, 4
"""Batches replayed beside a batch of uploads, and without one; there is replay once the larger of them is there."""
FOLLOWED = 0.1
"""Weight of a batch in the running statistics."""
KEPT = 10_000
"""Uploads that replay draws from, the last so many."""
SEED = 1


# ---- the device's network -------------------------------------------------------------------------------------------


class ReceivingNetwork(nn.Module):
    """The source network with scale and shift in place of batch norm, as they come from the host.

    Half their squares are a loss of its own, by which the compiler keeps them in RAM as variables; the device takes no
    step by it, and it needs nothing that inference computes.
    """

    def __init__(self, network: nn.Sequential) -> None:
        super().__init__()
        self.layers = with_norms(network, lambda norm, _: nn.BatchNorm2d(norm.num_features, eps=0.0))
        self.eval()
        for own, (scale, shift) in zip(self._norms(), map(folded, _batch_norms(network)), strict=True):
            own.load_state_dict({"weight": scale, "bias": shift}, strict=False)

    def forward(self, x: torch.Tensor) -> Penalised:
        """Logits (n, 10), and the loss that keeps scale and shift variables."""
        squares = x.new_zeros(())
        for norm in self._norms():
            squares = squares + (norm.weight * norm.weight).sum() + (norm.bias * norm.bias).sum()
        return Penalised(self.layers(x), 0.5 * squares)

    def received_names(self) -> list[str]:
        """Names of scale and shift, layer by layer."""
        own = {id(one) for norm in self._norms() for one in norm.parameters()}
        return [name for name, one in self.named_parameters() if id(one) in own]

    def receive(self, values: Mapping[str, FloatArray]) -> None:
        """Take scale and shift."""
        parameters = dict(self.named_parameters())
        with torch.no_grad():
            for name, value in values.items():
                parameters[name].copy_(torch.from_numpy(value))

    def received(self) -> dict[str, FloatArray]:
        """Scale and shift, as they are."""
        parameters = dict(self.named_parameters())
        return {name: parameters[name].detach().numpy().copy() for name in self.received_names()}

    @torch.no_grad()
    def infer(self, samples: FloatArray) -> FloatArray:
        """Logits (n, 10) of samples (n, channels, height, width)."""
        logits: torch.Tensor = self.layers(torch.from_numpy(samples))
        return logits.numpy()

    def _norms(self) -> Iterator[nn.BatchNorm2d]:
        return _batch_norms(self.layers)


def _batch_norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))


@torch.no_grad()
def folded(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift that do what a batch norm does with its running statistics."""
    mean, variance = statistics(norm)
    scale = norm.weight / square_root(variance + norm.eps)
    return scale, norm.bias - mean * scale


# ---- the host -------------------------------------------------------------------------------------------------------


class Renormalised(nn.BatchNorm2d):
    """Test-time batch renormalisation (Zhao et al., "DELTA", ICLR 2023, section 3.1).

    Forward it is batch norm with running statistics; the gradient is that of batch norm with the statistics of the
    batch, which the running ones follow while training.

    Args:
        norm: whose channels, values and statistics it takes.
    """

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps)
        self.load_state_dict(norm.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (n, C, H, W)."""
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
        running_mean, running_variance = statistics(self)
        own, deviation = square_root(variance + self.eps), square_root(running_variance + self.eps)
        renormalised = _by_channel((own / deviation).detach()), _by_channel((mean.detach() - running_mean) / deviation)
        y = (x - _by_channel(mean)) / _by_channel(own) * renormalised[0] + renormalised[1]
        if self.training:
            # Not in place: what is renormalised by is needed for the gradient.
            self.running_mean = torch.lerp(running_mean, mean.detach(), FOLLOWED)
            self.running_var = torch.lerp(running_variance, variance.detach(), FOLLOWED)
        return y * _by_channel(self.weight) + _by_channel(self.bias)


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None]


def entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each sample's softmax, nats, (n,)."""
    logs = functional.log_softmax(logits, 1)
    return -(logs.exp() * logs).sum(1)


def _weights(nats: torch.Tensor) -> torch.Tensor:
    return torch.exp(SURE_NATS - nats.detach())


def distillation(edge: torch.Tensor, foundation: torch.Tensor) -> torch.Tensor:
    """The loss of the device's network: its own entropy, and how far its logits are from the foundation model's.

    Args:
        edge, foundation: logits (n, 10); no gradient reaches ``foundation``.
    """
    taught = foundation.detach()
    own, sure = entropies(edge), _weights(entropies(taught))
    logs = functional.log_softmax(edge, 1)
    apart = functional.kl_div(logs, taught.softmax(1), reduction="none").sum(1)
    labelled = functional.nll_loss(logs, taught.argmax(1), reduction="none")
    return (
        ENTROPY_WEIGHT * (own * _weights(own)).mean()
        + DISTILLATION_WEIGHT * (apart * sure).mean()
        + LABEL_WEIGHT * (labelled * sure).mean()
    )


class Cloud:
    """The host: a foundation model that adapts to what is uploaded, and teaches a copy of the device's network.

    Scale and shift of batch norm learn, and its running statistics follow. All by one seed: the same uploads make the
    same values.

    Args:
        network: of the device, as it was trained.
        foundation: larger, trained on the same.
        batch: uploaded samples of a step.
    """

    def __init__(self, network: nn.Sequential, foundation: nn.Sequential, batch: int) -> None:
        self._edge, self._foundation = (
            with_norms(one, lambda norm, _: Renormalised(norm)) for one in (network, foundation)
        )
        self._optimizers = [
            torch.optim.SGD(_affine(one), rate, MOMENTUM)
            for one, rate in ((self._edge, EDGE_RATE), (self._foundation, FOUNDATION_RATE))
        ]
        self._batch = batch
        self._waiting: list[FloatArray] = []
        self._kept: list[FloatArray] = []
        self._drawn = np.random.default_rng(SEED)

    def take(self, uploaded: Sequence[FloatArray]) -> dict[str, FloatArray] | None:
        """A round's uploads, each (channels, height, width).

        Returns:
            Scale and shift for the device, by the names in :class:`ReceivingNetwork`; None where nothing was learnt.
        """
        self._waiting += uploaded
        self._kept = [*self._kept, *uploaded][-KEPT:]
        learnt = False
        with seeded(SEED):
            while len(self._waiting) >= self._batch:
                batch, self._waiting = self._waiting[: self._batch], self._waiting[self._batch :]
                samples = _stacked(batch)
                self._adapt_foundation(samples)
                self._distil(torch.cat([samples, *self._replayed(REPLAYED)]))
                learnt = True
            for samples in [] if learnt else self._replayed(REPLAYED_ALONE):
                self._distil(samples)
                learnt = True
        return self._values() if learnt else None

    def _adapt_foundation(self, samples: torch.Tensor) -> None:
        self._foundation.train()
        nats = entropies(self._foundation(samples))
        self._step(1, (nats * _weights(nats)).mean())
        self._foundation.eval()

    def _distil(self, samples: torch.Tensor) -> None:
        with torch.no_grad():
            taught = self._foundation(samples)
        self._edge.train()
        self._step(0, distillation(self._edge(samples), taught))
        self._edge.eval()

    def _step(self, which: int, loss: torch.Tensor) -> None:
        self._optimizers[which].zero_grad()
        torch.autograd.backward([loss])
        self._optimizers[which].step()

    def _replayed(self, batches: int) -> list[torch.Tensor]:
        """Earlier uploads, drawn anew; none until there are enough of them."""
        if len(self._kept) < REPLAYED_ALONE * self._batch:
            return []
        chosen = self._drawn.choice(len(self._kept), batches * self._batch, replace=False)
        return [_stacked([self._kept[place] for place in chosen])]

    def _values(self) -> dict[str, FloatArray]:
        values: dict[str, FloatArray] = {}
        for name, layer in self._edge.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                for own, value in zip(("weight", "bias"), folded(layer), strict=True):
                    values[f"layers.{name}.{own}"] = value.numpy().copy()
        return values


def _affine(network: nn.Module) -> list[nn.Parameter]:
    return [one for norm in _batch_norms(network) for one in norm.parameters()]


def _stacked(samples: Sequence[FloatArray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(samples))


# ---- both, on a stream ----------------------------------------------------------------------------------------------


def adapted_by(cloud: Cloud, network: ReceivingNetwork, samples: FloatArray, sent: Thresholds, each: int) -> Outcome:
    """What a device comes to whose host takes part after every ``each`` samples.

    Args:
        cloud: the host.
        network: of the device; holds what it received last afterwards.
        samples: the stream, (n, channels, height, width).
        sent: which samples are uploaded.
        each: samples of a round.
    """
    watch, outputs, uploaded, received = EntropyFilter(sent), [], [], 0
    for begin in range(0, len(samples), each):
        outputs.append(network.infer(samples[begin : begin + each]))
        taken = [begin + own for own, logits in enumerate(outputs[-1]) if watch.takes(softmax_entropy(logits))]
        values = cloud.take([samples[place] for place in taken])
        uploaded += taken
        if values is not None:
            network.receive(values)
            received += 1
    return Outcome(np.concatenate(outputs), (), (), network.received(), tuple(uploaded), received)
