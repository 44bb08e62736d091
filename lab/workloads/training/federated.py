"""A federation of devices that train by forward passes, and its server. Feng et al., "Does Federated Learning Really
Need Backpropagation?" (BAFFLE), algorithm 1: clients send differences of losses under perturbations that all of them
share, so that the server sees no client's data and, of a sum of uploads, not even one client's differences.

The baseline is federated averaging (McMahan et al. 2017): clients take steps of their own and send their variables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lab.compiler.model import Variable
from lab.workloads.training import differences

FloatArray = npt.NDArray[np.float32]
BETAS = (0.9, 0.999)
EPSILON = 1e-8


@dataclass(frozen=True)
class Turn:
    """What a client does in a round: the steps from ``first`` to ``last`` (not included) of the whole training.

    Attributes:
        key: of the round's perturbations.
        closes: whether the round ends with it.
    """

    key: int
    first: int
    last: int
    closes: bool


@dataclass(frozen=True)
class Federation:
    """Who trains when. Each client has images of its own, which no other sees.

    Attributes:
        clients: how many, and ``batch``: samples of each in a round.
        steps: of the whole training, all clients and rounds together.
        seed: behind which the rounds' keys come.
    """

    clients: int
    batch: int
    steps: int
    seed: int

    @property
    def rounds(self) -> int:
        """How many."""
        return self.steps // (self.clients * self.batch)

    def turns(self) -> Iterator[Turn]:
        """Every client's, round after round."""
        keys = differences.keys(self.seed)
        for number in range(self.rounds):
            key = next(keys)
            for client in range(self.clients):
                first = (number * self.clients + client) * self.batch
                yield Turn(key, first, first + self.batch, client == self.clients - 1)


class Server(Protocol):
    """What turns uploads into weights.

    Attributes:
        sent: float32 (weights,), what each client of the next round receives.
        kept: the same, what the server keeps in the end.
    """

    @property
    def sent(self) -> FloatArray: ...
    @property
    def kept(self) -> FloatArray: ...

    def take(self, key: int, uploads: FloatArray) -> None:
        """A round's uploads, (clients, values)."""


@dataclass(frozen=True)
class SteinOptions:
    """How the server descends.

    Attributes:
        optimizer: ``adam`` or ``sgd``.
        rate: of it.
        clip: most of an element of the gradient; 0 for no limit.
        average: share of the kept average that stays in a round; 0: the last weights are kept.
    """

    optimizer: str
    rate: float
    clip: float
    average: float


class SteinServer:
    """The paper's: the gradient is the mean over passes of differences over sigma times signs, made again from the key.

    Computes in float64 and sends float32.

    Args:
        weights: float32 (n,), all variables as they lie on the device, one behind the other.
        counts: elements of each variable.
        sigma: how far a pass moves each weight.
        options: how it descends.
    """

    def __init__(self, weights: FloatArray, counts: Sequence[int], sigma: float, options: SteinOptions) -> None:
        self._counts, self._sigma, self._options = tuple(counts), sigma, options
        self._weights = weights.astype(np.float64)
        self._average = self._weights.copy()
        self._mean, self._square = np.zeros_like(self._weights), np.zeros_like(self._weights)
        self._round = 0

    @property
    def sent(self) -> FloatArray:
        """As of :class:`Server`."""
        return self._weights.astype(np.float32)

    @property
    def kept(self) -> FloatArray:
        """As of :class:`Server`."""
        return self._average.astype(np.float32)

    def take(self, key: int, uploads: FloatArray) -> None:
        """A round's mean differences of losses, (clients, passes)."""
        passes, options = uploads.shape[1], self._options
        signs = np.concatenate(differences.signs(key, passes, self._counts), axis=1)
        gradient = uploads.mean(axis=0, dtype=np.float64) / self._sigma @ signs / passes
        if options.clip:
            gradient = gradient.clip(-options.clip, options.clip)
        self._round += 1
        self._weights -= options.rate * (self._adam(gradient) if options.optimizer == "adam" else gradient)
        self._average = options.average * self._average + (1 - options.average) * self._weights

    def _adam(self, gradient: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Kingma and Ba 2015, algorithm 1."""
        first, second = BETAS
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient**2
        mean = self._mean / (1 - first**self._round)
        return mean / (np.sqrt(self._square / (1 - second**self._round)) + EPSILON)


class AveragingServer:
    """Federated averaging: the next weights are the mean of the clients'."""

    def __init__(self, weights: FloatArray) -> None:
        self._weights = weights

    @property
    def sent(self) -> FloatArray:
        """As of :class:`Server`."""
        return self._weights

    @property
    def kept(self) -> FloatArray:
        """As of :class:`Server`."""
        return self._weights

    def take(self, key: int, uploads: FloatArray) -> None:
        """A round's weights, (clients, weights)."""
        self._weights = uploads.mean(axis=0, dtype=np.float64).astype(np.float32)


class Client(Protocol):
    """Takes a turn: receives weights, yields the loss before each step (batch,), and what it uploads (values,)."""

    def __call__(self, weights: FloatArray, turn: Turn) -> tuple[FloatArray, FloatArray]: ...


@dataclass(frozen=True)
class Walked:
    """What came of all rounds: losses (steps,), uploads (rounds, clients, values)."""

    losses: FloatArray
    uploads: FloatArray


def walk(federation: Federation, server: Server, client: Client) -> Walked:
    """All rounds; the same client plays every one of them."""
    losses, uploads, all_uploads = list[FloatArray](), list[FloatArray](), list[FloatArray]()
    for turn in federation.turns():
        loss, upload = client(server.sent, turn)
        losses.append(loss)
        uploads.append(upload)
        if turn.closes:
            all_uploads.append(np.stack(uploads))
            server.take(turn.key, all_uploads[-1])
            uploads = []
    return Walked(np.concatenate(losses), np.stack(all_uploads))


def flat(variables: Sequence[Variable], raw: Mapping[str, bytes]) -> FloatArray:
    """Variables as one row, in the device's order."""
    return np.frombuffer(b"".join(raw[one.name] for one in variables), "<f4").astype(np.float32)


def parted(variables: Sequence[Variable], weights: FloatArray) -> dict[str, bytes]:
    """The reverse of :func:`flat`."""
    ends = np.cumsum([math.prod(one.shape) for one in variables])[:-1]
    parts = np.split(weights.astype("<f4"), ends)
    return {one.name: part.tobytes() for one, part in zip(variables, parts, strict=True)}


def in_memory(variable: Variable, real: FloatArray) -> FloatArray:
    """A parameter as PyTorch has it, flat in the order of the device's memory."""
    shape = [variable.shape[axis] for axis in variable.permutation]
    return real.reshape(shape).transpose(np.argsort(variable.permutation)).reshape(-1)
