"""SparCL's stream: images two classes at a time, a rehearsal buffer, and samples that are removed as they get easy.

The order in which samples are learnt depends on losses alone, and :func:`walk` is that dependence: from the losses of
PyTorch, of the C on this computer or of a device it yields the order that these lead to. No torch in here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lab.compiler.replay import Turns
from lab.errors import ConfigError
from lab.workloads.data import cifar10, digits

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

SEED = 1
PER_TASK = 2
QUESTIONS = 35
"""Of each class, held out: of the digits."""
REMOVING = 0.4
"""Share of a task's epochs after which samples are removed: 20 of 50 in the paper."""


@dataclass(frozen=True)
class Stream:
    """Samples by task, and what is asked afterwards.

    Attributes:
        samples, labels: (n, …) as a device takes them, digits (n, 64) from −1 to 1, and (n,): the tasks' samples, one
            task after another.
        tasks: indices of each task's samples.
        questions, answers: the same of held-out samples of all classes.
    """

    samples: FloatArray
    labels: IntArray
    tasks: tuple[IntArray, ...]
    questions: FloatArray
    answers: IntArray

    def classes_of(self, task: int) -> IntArray:
        """The classes that a task brings."""
        return np.unique(self.labels[self.tasks[task]])


@dataclass(frozen=True)
class Rehearsal:
    """How a stream is learnt.

    Attributes:
        epochs: passes over a task's samples.
        buffer: samples that are kept of all that came (reservoir sampling); some of them follow each new one. 0: none.
        removal: share of a task's samples that is removed, the easiest, in equal parts at each tenth of its first
            epochs.
        seed: of the orders and the buffer.
        batch: new samples that come together, in whole batches: the rest of an epoch is left out.
        draws: how many of the buffer follow each new one.
        rows: samples of a step, one or ``batch``.
    """

    epochs: int
    buffer: int
    removal: float
    seed: int = SEED
    batch: int = 1
    draws: int = 1
    rows: int = 1

    @property
    def group(self) -> int:
        """Steps between two changes of the network: single samples change it one by one."""
        return self.turns.group // self.rows if self.batch > 1 else 1

    @property
    def turns(self) -> Turns:
        """What becomes of each sample."""
        return Turns(self.buffer, self.batch, self.draws, self.seed)

    @property
    def removals(self) -> list[int]:
        """Epochs, counted from 1, after which samples are removed: 5, 10, 15 and 20 of the paper's 50."""
        every = max(1, round(self.epochs / 10))
        return list(range(every, math.ceil(REMOVING * self.epochs) + 1, every))

    def left(self, samples: int, epoch: int) -> int:
        """How many of a task's samples are left after so many epochs."""
        points = self.removals
        return samples - round(samples * self.removal * sum(one <= epoch for one in points) / len(points))

    def task_steps(self, samples: int) -> int:
        """Steps of a task of so many samples.

        Raises:
            ConfigError: fewer samples than a batch are left at its end.
        """
        if self.left(samples, self.epochs) < self.batch:
            raise ConfigError(
                f"sparcl: batch={self.batch}; of a task's {samples} samples {self.left(samples, self.epochs)} are left "
                "at its end",
                hint="a smaller batch=, more samples=, or less removal=",
            )
        batches = sum(self.left(samples, one) // self.batch for one in range(self.epochs))
        return self.turns.group // self.rows * batches


@dataclass(frozen=True)
class Images:
    """What streams are drawn from.

    Attributes:
        source, digest: name of the data, and SHA-256, hex, of their files.
        pixels, labels: (n, …) as they are kept, and (n,).
        held: bool (n,), what is asked and never learnt; None where streams hold some of each class out themselves.
        scaled: makes float32 samples, as a device takes them, of pixels.
    """

    source: str
    digest: str
    pixels: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
    labels: IntArray
    held: npt.NDArray[np.bool_] | None
    scaled: Callable[[npt.NDArray[np.generic]], FloatArray]

    def parted(self, shuffled: IntArray, questions: int) -> tuple[IntArray, IntArray]:
        """Of one class's images: which may be learnt, and which are asked."""
        if self.held is None:
            return shuffled[:-questions], shuffled[-questions:]
        return shuffled[~self.held[shuffled]], shuffled[self.held[shuffled]][-questions:]


def digit_images() -> Images:
    """Scikit-learn's digits, (n, 8, 8).

    Raises:
        ConfigError: as :func:`lab.workloads.data.digits.find`.
    """
    found = digits.load()

    def scaled(pixels: npt.NDArray[np.generic]) -> FloatArray:
        return (2 * pixels.astype(np.float32) - 1).reshape(len(pixels), -1)

    return Images(digits.SOURCE, digits.digest(digits.find()), found.pixels, found.digits, None, scaled)


def cifar_images() -> Images:
    """CIFAR-10 from the user's folder, (n, 3, 32, 32); its test images are asked. Samples are (n, 32, 32, 3).

    Raises:
        ConfigError: as :func:`lab.workloads.data.cifar10.cifar10`.
    """
    found = cifar10.cifar10((*cifar10.TRAINING, *cifar10.TEST))
    tested = cifar10.TEST[0].partition(".")[0]

    def scaled(pixels: npt.NDArray[np.generic]) -> FloatArray:
        return np.ascontiguousarray(cifar10.normalised(pixels.astype(np.uint8)).transpose(0, 2, 3, 1))

    held = np.array([domain == tested for domain in found.domains])
    return Images(found.name, found.digest, found.samples, found.labels, held, scaled)


def draw(images: Images, samples: int, classes: int, questions: int, order: int = 0) -> Stream:
    """A stream; ``order`` is which random order of the classes, 0 for that of their names.

    Args:
        images: what it is drawn from.
        samples, questions: of each class, learnt and asked.
        classes: how many.
        order: of the classes.

    Raises:
        ConfigError: more samples or questions of a class than there are, or classes that make no two tasks.
    """
    all_classes = int(images.labels.max()) + 1
    if classes % PER_TASK or not 2 * PER_TASK <= classes <= all_classes:
        raise ConfigError(
            f"sparcl: {classes} classes do not come in tasks of {PER_TASK}",
            hint=f"an even number from {2 * PER_TASK} to {all_classes}: a stream has two tasks at least",
        )
    generator = np.random.default_rng((SEED, order))
    by_class = [
        images.parted(generator.permutation(np.flatnonzero(images.labels == one)), questions) for one in range(classes)
    ]
    there, most = (min(len(pair[part]) for pair in by_class) for part in (0, 1))
    if not 1 <= samples <= there:
        raise ConfigError(f"sparcl: samples={samples} of each class cannot be had", hint=f"from 1 to {there}")
    if most < questions:
        raise ConfigError(f"sparcl: questions={questions} of each class cannot be had", hint=f"from 1 to {most}")
    turn = generator.permutation(classes) if order else np.arange(classes)
    learnt = np.concatenate([by_class[one][0][:samples] for one in turn])
    asked = np.concatenate([pair[1] for pair in by_class])
    return Stream(
        samples=images.scaled(images.pixels[learnt]),
        labels=images.labels[learnt],
        tasks=tuple(np.split(np.arange(len(learnt)), classes // PER_TASK)),
        questions=images.scaled(images.pixels[asked]),
        answers=images.labels[asked],
    )


def load(samples: int, classes: int, order: int = 0) -> Stream:
    """Scikit-learn's digits as a stream, as :func:`draw`."""
    return draw(digit_images(), samples, classes, QUESTIONS, order)


class Hardness:
    """Mean loss of each sample over the times that it came as a new one."""

    def __init__(self) -> None:
        self._losses: dict[int, list[float]] = {}

    def add(self, sample: int, loss: float) -> None:
        """Count a loss before a step."""
        self._losses.setdefault(sample, []).append(loss)

    def easiest(self, left: list[int], count: int) -> set[int]:
        """So many of the samples that are left, those of the smallest mean; one that never came is the hardest."""
        return set(sorted(left, key=self.mean)[:count])

    def mean(self, sample: int) -> float:
        """Its mean; infinite where it never came."""
        losses = self._losses.get(sample)
        return float(np.mean(losses)) if losses else math.inf


def walk(
    stream: Stream,
    plan: Rehearsal,
    learn: Callable[[list[int]], float],
    after_task: Callable[[int], None] = lambda task: None,
    removed: Callable[[list[int], set[int]], None] = lambda left, easy: None,
) -> list[int]:
    """Learn the stream; the samples of its steps, one after another.

    Each batch of new samples is offered to the buffer, in every epoch, and then followed by as many draws from it as
    ``plan.draws`` says. Dynamic data removal: the samples of a task whose losses were the smallest in the mean are left
    out of its later epochs. The paper counts misclassifications; a loss is what a device reports anyway, and orders
    samples that were never misclassified as well. Of a step of several samples it is their mean, and counts for each.

    Args:
        stream, plan: what is learnt, and how.
        learn: takes the indices of a step's samples and yields their mean loss before the step.
        after_task: told each task that has ended.
        removed: told the samples that were left, and which of them are removed.
    """
    generator, turns = np.random.default_rng(plan.seed), plan.turns
    slots = [-1] * plan.buffer
    order: list[int] = []

    def take(samples: list[int]) -> float:
        order.extend(samples)
        return learn(samples)

    def coming() -> list[int]:
        """Slots of the samples of the next step."""
        return [turns.slot(len(order) + 1 + row) for row in range(plan.rows)]

    def group(batch: list[int], hardness: Hardness) -> None:
        for first in range(0, len(batch), plan.rows):
            places, part = coming(), batch[first : first + plan.rows]
            loss = take(part)
            for sample, slot in zip(part, places, strict=True):
                hardness.add(sample, loss)
                if slot < plan.buffer:
                    slots[slot] = sample
        for _ in range(turns.turns * len(batch) // plan.rows):
            take([slots[slot] for slot in coming()])

    for number, task in enumerate(stream.tasks):
        plan.task_steps(len(task))
        hardness, left = Hardness(), [int(one) for one in task]
        for epoch in range(1, plan.epochs + 1):
            shuffled = [int(one) for one in generator.permutation(left)]
            for first in range(0, len(left) - plan.batch + 1, plan.batch):
                group(shuffled[first : first + plan.batch], hardness)
            if epoch in plan.removals:
                easy = hardness.easiest(left, len(left) - plan.left(len(task), epoch))
                removed(left, easy)
                left = [one for one in left if one not in easy]
        after_task(number)
    return order


def removals_alike(
    stream: Stream, plan: Rehearsal, theirs: Iterable[float], ours: Iterable[float], tie: float = 0.0
) -> float:
    """Share of the removed samples that ``ours``, the losses of the same steps, remove as well; 1 where none is.

    Another one in a removed sample's place counts as well, where the mean losses of the two differ by a tie at most.

    Args:
        stream, plan: what was learnt, and how.
        theirs: the losses that led to the steps that were taken.
        ours: as many.
        tie: a difference of losses that says nothing.
    """
    pairs = iter(zip(theirs, ours, strict=True))
    hardness, known, turns = Hardness(), Hardness(), plan.turns
    steps = alike = all_removed = 0

    def learn(samples: list[int]) -> float:
        nonlocal steps
        their, our = next(pairs)
        steps += 1
        for sample in samples if turns.draw_of(steps * plan.rows) == 0 else []:
            hardness.add(sample, float(our))
            known.add(sample, float(their))
        return float(their)

    def removed(left: list[int], easy: set[int]) -> None:
        nonlocal alike, all_removed
        cut = max((known.mean(sample) for sample in easy), default=0.0)
        alike += sum(known.mean(sample) <= cut + tie for sample in hardness.easiest(left, len(easy)))
        all_removed += len(easy)

    walk(stream, plan, learn, removed=removed)
    return alike / all_removed if all_removed else 1.0


def rounds(stream: Stream) -> list[int]:
    """Every sample once, one of each class in turn: for means, which do not depend on an order."""
    by_class = [np.flatnonzero(stream.labels == one) for one in np.unique(stream.labels)]
    return [int(sample) for one in np.stack(by_class, 1) for sample in one]


def packed(samples: FloatArray, labels: IntArray, steps: int) -> tuple[FloatArray, IntArray, int]:
    """Samples and labels filled up with empty ones, which no step asks for, and the epochs: a job has a whole number
    of epochs, and its steps are those times its samples.
    """
    epochs = next(number for number in range(max(1, steps // len(samples)), 0, -1) if steps % number == 0)
    empty = max(steps // epochs - len(samples), 0)
    blank = np.zeros((empty, *samples.shape[1:]), np.float32)
    return np.concatenate([samples, blank]), np.concatenate([labels, np.zeros(empty, np.int64)]), epochs
