"""The learning rate of each arm on turned digits, by one small grid for all of them.

``python -m lab.workloads.training.rates tinytl`` prints it. The compiled C takes the steps on this computer, as a
device does. Of three orders of the training images each begins with those that are trained on and ends with those that
are asked: none of the workload's own questions is among them. Beside the accuracy stands how far rounding may carry a
float32 arm: how far apart runs end that begin from variables changed by 1e-7. What a device does at a rate at which
that is far says little of the arm: its figures are one draw of many.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lab import progress
from lab.paths import cache_dir
from lab.workloads import get
from lab.workloads.training import gradient_filtering, rep_net, sparse_update, tinytl
from lab.workloads.training.agreement import ROUNDING, nearly, update_error
from lab.workloads.training.arms import transfer_of
from lab.workloads.training.transfer import Samples, Transfer, accuracy_of, compiled, physical
from lab.workloads.training.transfer_tasks import Schedule, task_of
from lab.workloads.training.turned_digits import SEED, Data, IntArray

if TYPE_CHECKING:
    from lab.compiler.host import HostTraining

RATES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16)
ORDERS = (SEED, SEED + 1, SEED + 2)
"""The first is the workload's own."""
ASKED = 400
CHANGES = 4
APART = 0.01
"""Of the way: below it the ends are the same, and it is not told. Where no ReLU tips, rounding leaves 1e-6."""

TransferOf: TypeAlias = Callable[[str, Path], "tuple[Schedule, Transfer, Data]"]


@dataclass(frozen=True)
class Tried:
    """One rate of one arm.

    Attributes:
        rate: of each step.
        accuracies: of each order, on images that are neither trained on nor the workload's questions.
        apart: the farthest of :data:`CHANGES` changed runs, of the way; 0 in int8, whose rounding is random anyway.
    """

    rate: float
    accuracies: tuple[float, ...]
    apart: float

    @property
    def accuracy(self) -> float:
        """The mean over the orders."""
        return float(np.mean(self.accuracies))


def _float_arm(workload: str) -> TransferOf:
    def made(text: str, cache: Path) -> tuple[Schedule, Transfer, Data]:
        module = {"gradient-filtering": gradient_filtering, "rep-net": rep_net, "tinytl": tinytl}[workload]
        variant = module.parse(text)
        task = task_of(variant, cache)
        data = task.data()
        arm = module.arm_of(variant, task.backbone(data), data.turned[:1])
        return variant, transfer_of(workload, variant, data, arm), data

    return made


def _sparse(text: str, cache: Path) -> tuple[Schedule, Transfer, Data]:
    variant = sparse_update.parse(text)
    task = task_of(variant, cache)
    data = task.data()
    return variant, sparse_update.transfer_of(variant, data, task.backbone(data))[0], data


METHODS: Mapping[str, TransferOf] = {
    "sparse-update": _sparse,
    **{name: _float_arm(name) for name in ("tinytl", "rep-net", "gradient-filtering")},
}


def grid(workload: str, variant: str, cache: Path, rates: tuple[float, ...] = RATES) -> list[Tried]:
    """Every rate for one arm of a workload; seeded.

    Args:
        workload: one of :data:`METHODS`.
        variant: the arm, as ``lab run --variant`` takes it; its ``rate=`` does not count.
        cache: the lab's.
        rates: to try.

    Raises:
        ConfigError: no such variant, or no data.
        CompileError: the arm cannot be compiled so.
    """
    from lab.compiler.host import HostTraining
    from lab.workloads.fitting import seeded

    schedule, transfer, data = METHODS[workload](variant, cache)
    with seeded(SEED), tempfile.TemporaryDirectory() as folder:
        model = compiled(transfer).compiled
        host = HostTraining(model, Path(folder))
        images = physical(data.turned, model, transfer.precision)
        trials = _Trials(host, images, data, schedule)
        found = []
        with progress.step(f"{workload}: {variant or 'the method'}", quiet_below_s=2.0) as step:
            for number, rate in enumerate(rates, 1):
                accuracies = tuple(trials.accuracy(rate, order) for order in ORDERS)
                found.append(Tried(rate, accuracies, trials.apart(rate) if transfer.precision == "float32" else 0.0))
                step.update(number, len(rates))
    return found


@dataclass(frozen=True)
class _Trials:
    """Runs of one compiled arm: images (n, H, W, C) as the device takes them, their labels, and the schedule."""

    host: HostTraining
    images: Samples
    data: Data
    schedule: Schedule

    def accuracy(self, rate: float, order: int) -> float:
        """On the last :data:`ASKED` images of an order, after training on the first ones."""
        chosen = self._order(order)
        self.host.reset()
        self._train(rate, chosen)
        asked = chosen[-ASKED:]
        outputs = self.host.run(self.images[asked]).reshape(len(asked), -1).view(np.int8)
        return accuracy_of(outputs, self.data.labels.numpy()[asked])

    def apart(self, rate: float) -> float:
        """How far from the run of the first order the farthest run from variables changed by a rounding ends."""
        chosen = self._order(SEED)
        self.host.reset()
        raw = {name: np.frombuffer(one, np.float32) for name, one in self.host.raw_variables().items()}
        initial = self.host.variables()
        self._train(rate, chosen)
        expected, errors = self.host.variables(), []
        for change in range(CHANGES):
            self.host.reset()
            self.host.write({name: one.tobytes() for name, one in nearly(raw, ROUNDING, change).items()})
            self._train(rate, chosen)
            errors.append(update_error(self.host.variables(), expected, initial))
        return max(errors)

    def _order(self, order: int) -> IntArray:
        return np.random.default_rng(order).permutation(self.data.training)

    def _train(self, rate: float, chosen: IntArray) -> None:
        targets = self.data.labels.numpy().astype(np.int32)
        self.host.state.random = SEED
        for _ in range(self.schedule.epochs):
            for index in chosen[: self.schedule.samples]:
                self.host.step(self.images[index : index + 1], targets[index : index + 1], rate)


def table(workload: str, variants: tuple[str, ...], cache: Path, rates: tuple[float, ...] = RATES) -> str:
    """Markdown: a row for each arm, a column for each rate: accuracy, and how far apart runs ended where they did."""
    rows = ["| arm | " + " | ".join(f"{rate:g}" for rate in rates) + " |", "|---" * (len(rates) + 1) + "|"]
    for variant in variants:
        cells = [
            f"{one.accuracy:.1%}" + ("" if one.apart < APART else f" ({one.apart:.2f})")
            for one in grid(workload, variant, cache, rates)
        ]
        rows.append(f"| {variant or 'the method'} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(one) for one in text.split(","))


def main() -> None:
    """Print the grid of a workload's arms, or of the variants named."""
    parser = argparse.ArgumentParser(description="Accuracy by learning rate, on images that no run is asked.")
    parser.add_argument("workload", choices=sorted(METHODS))
    parser.add_argument("variants", nargs="*", help="default: the method and its baselines")
    parser.add_argument("--rates", type=_numbers, default=RATES, help="others, as 0.03,0.05")
    asked = parser.parse_args()
    variants = tuple(asked.variants) or ("", *get(asked.workload).baselines)
    print(table(asked.workload, variants, cache_dir(), asked.rates))


if __name__ == "__main__":
    main()
