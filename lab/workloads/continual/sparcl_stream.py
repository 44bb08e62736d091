"""SparCL's stream: images two classes at a time, a rehearsal buffer, and samples that are removed as they get easy.

The order in which samples are learnt depends on losses alone, and :func:`walk` is that dependence: from the losses of
PyTorch, of the C on this computer or of a device it yields the order that these lead to. No torch in here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
        buffer: samples that are kept of all that came (reservoir sampling); one of them follows each new one. 0: none.
        removal: share of a task's samples that is removed, the easiest, in equal parts after each of its first epochs.
        seed: of the orders and the buffer.
    """

    epochs: int
    buffer: int
    removal: float
    seed: int = SEED


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


class _Reservoir:
    """Uniform samples of all that was offered (Vitter 1985, algorithm R)."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self._size, self._generator = size, generator
        self._kept: list[int] = []
        self._seen = 0

    def offer(self, sample: int) -> None:
        self._seen += 1
        if len(self._kept) < self._size:
            self._kept.append(sample)
        elif (place := int(self._generator.integers(self._seen))) < self._size:
            self._kept[place] = sample

    def drawn(self) -> list[int]:
        """One sample, or none of an empty buffer."""
        return [self._kept[int(self._generator.integers(len(self._kept)))]] if self._kept else []


def easiest(left: list[int], losses: Mapping[int, float], count: int) -> set[int]:
    """So many of the samples that are left, those of the smallest losses."""
    return set(sorted(left, key=losses.__getitem__)[:count])


def walk(
    stream: Stream,
    plan: Rehearsal,
    learn: Callable[[int], float],
    after_task: Callable[[int], None] = lambda task: None,
    removed: Callable[[list[int], set[int]], None] = lambda left, easy: None,
) -> list[int]:
    """Learn the stream; the sample of each step.

    Dynamic data removal: the samples of a task whose losses were the smallest in sum are left out of its later epochs.
    The paper counts misclassifications; a loss is what a device reports anyway, and orders samples that were never
    misclassified as well.

    Args:
        stream, plan: what is learnt, and how.
        learn: takes the index of a sample and yields its loss before the step.
        after_task: told each task that has ended.
        removed: told the samples that were left, and which of them are removed.
    """
    generator = np.random.default_rng(plan.seed)
    buffer = _Reservoir(plan.buffer, generator)
    removals = math.ceil(REMOVING * plan.epochs)
    order: list[int] = []

    def take(sample: int) -> float:
        order.append(sample)
        return learn(sample)

    for number, task in enumerate(stream.tasks):
        losses = dict.fromkeys(map(int, task), 0.0)
        left = list(losses)
        for epoch in range(plan.epochs):
            for sample in map(int, generator.permutation(left)):
                losses[sample] += take(sample)
                if epoch == 0:
                    buffer.offer(sample)
                for kept in buffer.drawn():
                    take(kept)
            if epoch < removals:
                count = round(len(task) * plan.removal * (epoch + 1) / removals) + len(left) - len(task)
                easy = easiest(left, losses, count)
                removed(left, easy)
                left = [one for one in sorted(left) if one not in easy]
        after_task(number)
    return order


def removals_alike(stream: Stream, plan: Rehearsal, theirs: Iterable[float], ours: Iterable[float]) -> float:
    """Share of the removed samples that ``ours``, the losses of the same steps, remove as well; 1 where none is.

    Args:
        stream, plan: what was learnt, and how.
        theirs: the losses that led to the steps that were taken.
        ours: as many.
    """
    pairs = iter(zip(theirs, ours, strict=True))
    sums: dict[int, float] = {}
    steps = alike = all_removed = 0

    def learn(sample: int) -> float:
        nonlocal steps
        their, our = next(pairs)
        # With a buffer every other step rehearses, and no rehearsal counts.
        if not plan.buffer or steps % 2 == 0:
            sums[sample] = sums.get(sample, 0.0) + float(our)
        steps += 1
        return float(their)

    def removed(left: list[int], easy: set[int]) -> None:
        nonlocal alike, all_removed
        alike += len(easy & easiest(left, sums, len(easy)))
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
