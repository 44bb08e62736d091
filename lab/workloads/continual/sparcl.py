"""SparCL: continual learning with sparse weights, sparse gradients and fewer samples. Wang et al. 2022.

Classes come two at a time; a rehearsal buffer keeps some samples of the earlier ones. Three things make that cheap, and
all follow the training: a mask over the weights that gives up the smallest for others (task-aware dynamic masking), a
mask over the gradients that lets the largest through (dynamic gradient masking), and the removal of samples that are
learnt already (dynamic data removal). The paper masks single weights, and counts what could be saved; here masks choose
blocks of four weights and whole outputs, so that the device saves it: what is masked takes neither memory nor time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np

from lab.compiler.model import CompiledTraining
from lab.errors import ConfigError, WorkloadError
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import EVERY_CLASS, Claim, Dataset, DeviceClass, Figure, FloatArray, Prepared, Score
from lab.workloads.continual import sparcl_stream
from lab.workloads.continual.sparcl_claims import CLAIMS
from lab.workloads.continual.sparcl_stream import (
    QUESTIONS,
    SEED,
    Images,
    Rehearsal,
    Stream,
    cifar_images,
    digit_images,
    draw,
    packed,
    removals_alike,
)
from lab.workloads.data import cifar10, digits
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.training.agreement import Limits
from lab.workloads.training.transfer import Trained, cache_key, from_entry, prepared_of, to_entry

Update: TypeAlias = Literal["sparcl", "static", "dense", "ncm"]
Size: TypeAlias = Literal["ci", "paper"]
Replayed: TypeAlias = Literal["er", "der"]
Masks: TypeAlias = Literal["turns", "tasks"]
Norm: TypeAlias = Literal["single", "batch"]
DISTIL, REHEARSE = 0.1, 0.5
"""Weights of stored logits and of labels in the loss: the paper's α and β for CIFAR-10."""
LIMITS: Mapping[Size, Limits] = {"ci": Limits(loss=0.02, update=0.25), "paper": Limits(loss=0.25, update=1.0)}
"""A last bit can put a value on the other side of a ReLU's corner, or a gradient on the other side of the threshold;
the paper's network has hundreds of times as many of both. Seen of it at a quarter of the width: 3e-6 of the way until
the first corner, 0.004 after 65 steps; at full width 0.14 after 108."""
MIN_MASK_AGREEMENT = 0.95
"""Share of the kept blocks that PyTorch keeps as well: what is the smallest of several, a last bit can decide."""
MIN_REMOVALS_ALIKE: Mapping[Size, float] = {"ci": 1.0, "paper": 0.75}
"""Share of the removed samples that the device's losses must remove, too: what is the easier of two, a last bit can
decide where there are thousands."""
BLOCKS, THRESHOLD, NEXT, LOGITS = ".blocks", ".threshold", ".next", "replay.logits"
STATISTICS = (".running_mean", ".running_var")
"""What the compiler calls the block numbers of a weight, the threshold of its gradients, its values behind the batch,
the logits that are stored, and what batch norm has in inference."""
LEAST_BATCH = 8
"""Of batch norm: of fewer draws some are so alike that a variance vanishes, and gradients grow a hundredfold."""
MOST_JOB_BYTES = (1 << 32) - 1
"""What a device counts a job's samples in: of steps of a whole batch each has its images anew."""
_HERE = Path(__file__).parent
_SOURCES = (
    *sorted(_HERE.glob("sparcl*.py")), *sorted((_HERE.parent / "networks").glob("*.py")),
    _HERE.parent / "training" / "few_shot.py", Path(digits.__file__), Path(cifar10.__file__),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What learns, and what from.

    Attributes:
        size: ``ci``; ``paper``: ResNet-18 on Split CIFAR-10 from the user's folder.
        update: ``sparcl``; ``static``: its masks over weights stay where they are; ``dense``: rehearsal alone, nothing
            masked or removed; ``ncm``: no descent, the nearest of the classes' mean images.
        hidden: units of the first hidden layer; of the ResNet, channels of its first stage.
        sparsity: share of the blocks of the hidden layers' weights that is left out.
        changed: share of the outputs whose weights change in a step.
        masks: ``turns``: each ``renew`` updates one block of a layer is another; ``tasks``: the paper's schedule.
        renew: updates from one renewal of a block to the next.
        removal: share of a task's samples that is removed.
        buffer: samples kept for rehearsal.
        replay: ``er``: their labels; ``der``: also the logits that the network had for them when they came (DER++).
        batch: new samples whose gradients, and those of as many draws, make one update; a single one's make one each.
        norm: ``single``: nothing that needs a batch (of the ResNet group norm), and a step has one sample; ``batch``:
            batch norm, and a step has a whole batch.
        samples, questions, classes: of each class, learnt and asked afterwards, and how many classes.
        epochs, rate: passes over a task, learning rate.
        orders: of the classes, over which accuracy is averaged on this computer: one order says little.
        target: accuracy whose time is told.
    """

    size: Size = "ci"
    update: Update = "sparcl"
    hidden: int = 256
    sparsity: float = 0.75
    changed: float = 0.3
    masks: Masks = "turns"
    renew: int = 20
    removal: float = 0.3
    buffer: int = 50
    replay: Replayed = "er"
    batch: int = 1
    norm: Norm = "single"
    samples: int = 20
    questions: int = QUESTIONS
    classes: int = 10
    epochs: int = 4
    rate: float = 0.05
    orders: int = 8
    target: float = 0.6

    @property
    def step_rate(self) -> float:
        """Of a step's gradient; a batch takes the mean of its steps' where they have one sample."""
        return self.rate / self.batch * self.rows

    @property
    def rows(self) -> int:
        """Samples of a step."""
        return self.asked_at_once if self.update != "ncm" else 1

    @property
    def asked_at_once(self) -> int:
        """Questions come in whole ones of these; also of the baseline that needs none, so that it is asked the same."""
        return self.batch if self.norm == "batch" else 1

    def rehearsal(self) -> Rehearsal:
        """How the stream is learnt."""
        removal = 0.0 if self.update == "dense" else self.removal
        draws = 2 if self.replay == "der" else 1
        return Rehearsal(self.epochs, self.buffer, removal, SEED, self.batch, draws, self.rows)


PAPER = Variant(
    size="paper", hidden=64, changed=0.8, masks="tasks", buffer=500, replay="der", batch=32, norm="batch", samples=50,
    questions=48, epochs=5, rate=0.03, orders=1, target=0.3,
)  # fmt: skip
"""Of the paper: network and batch norm, data, sparsity and its schedule, share of what is kept that changes, buffer and
its logits, batch, rate, share that is removed. Not of the paper, whose ``samples=5000,questions=1000,epochs=50`` take
weeks here: how many samples and epochs."""
ALLOWED: tuple[Allowed, ...] = (
    one_of("update", get_args(Update)),
    within("sparsity", 0.5, 0.95),
    within("changed", 0.05, 1),
    one_of("masks", get_args(Masks)),
    within("renew", 1, 10_000),
    within("removal", 0, 0.9),
    within("buffer", 0, 500),
    one_of("replay", get_args(Replayed)),
    within("batch", 1, 128),
    one_of("norm", get_args(Norm)),
    within("epochs", 1, 50),
    within("rate", 1e-6, 1),
    within("orders", 1, 50),
    within("questions", 1, 1000),
    within("target", 0.1, 1),
)
SIZES: Mapping[str, tuple[Variant, tuple[Allowed, ...]]] = {
    "ci": (Variant(), (*ALLOWED, one_of("hidden", (32, 64, 128, 256, 512)))),
    "paper": (PAPER, (*ALLOWED, one_of("hidden", (8, 16, 32, 64)))),
}


def parse(text: str) -> Variant:
    """A variant from ``update=dense,buffer=100``; what is not named keeps the default of its size.

    Raises:
        ConfigError: an unknown name or a value that is not allowed, logits of an empty buffer, or batch norm of too
            few samples.
    """
    chosen = read_sized("sparcl", SIZES, text)
    if chosen.replay == "der" and chosen.buffer == 0:
        raise ConfigError("sparcl: replay=der with buffer=0: no logits are stored", hint="a buffer, or replay=er")
    if chosen.norm == "batch" and (chosen.batch < LEAST_BATCH or 0 < chosen.buffer < chosen.batch):
        raise ConfigError(
            f"sparcl: norm=batch with batch={chosen.batch},buffer={chosen.buffer}: statistics of so few samples vanish",
            hint=f"batch= from {LEAST_BATCH}, and buffer=0 or at least as large; or norm=single",
        )
    return chosen


def images_of(variant: Variant) -> Images:
    """The data of a size.

    Raises:
        ConfigError: they are not there, or damaged.
    """
    return digit_images() if variant.size == "ci" else cifar_images()


def stream_of(variant: Variant, images: Images, order: int = 0) -> Stream:
    """The stream that a variant learns from these images.

    Raises:
        ConfigError: as :func:`lab.workloads.continual.sparcl_stream.draw`.
    """
    found, rows = draw(images, variant.samples, variant.classes, variant.questions, order), variant.asked_at_once
    there, whole = len(found.answers), len(found.answers) // rows * rows
    if whole == 0:
        raise ConfigError(f"sparcl: {there} questions are not {rows}", hint="more questions=, or a smaller batch=")
    # The questions lie class by class: what makes no whole batch is left out of all of them alike.
    chosen = np.arange(whole) * there // whole
    return replace(found, questions=found.questions[chosen], answers=found.answers[chosen])


class SparCL:
    """The workload. Variants: ``update=sparcl|static|dense|ncm``, ``sparsity=``, ``changed=``, ``masks=turns|tasks``,
    ``renew=``, ``removal=``, ``buffer=``, ``replay=er|der``, ``batch=``, ``norm=single|batch``, ``hidden=``,
    ``samples=``, ``questions=``, ``classes=``, ``epochs=``, ``rate=``, ``orders=``, ``target=``, separated by commas;
    ``size=paper`` has defaults of its own, :data:`PAPER`.
    """

    id: str = "sparcl"
    title: str = "Continual learning with dynamic masks over weights and gradients, and fewer samples (SparCL)"
    family: str = "continual"
    systems: tuple[str, ...] = ("S034",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("update=dense", "update=static", "update=ncm")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = "the paper's fifty epochs with batch norm: their job would repeat every image of every step, 66 GiB"

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Compile, and learn the stream on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, no data, or steps of more images than a job holds.
        """
        chosen = parse(variant)
        images = images_of(chosen)
        stream = stream_of(chosen, images)
        _check_size(chosen, stream)
        key = cache_key(asdict(chosen), images.digest, *_SOURCES)
        entry = cached.obtain(cache / "workloads", self.id, key, lambda: _produce(chosen, images))
        trained, document = from_entry(entry), json.loads(entry.document)
        prepared = prepared_of(
            _weights_alone(trained),
            f"{len(stream.tasks)} tasks of {sparcl_stream.PER_TASK} classes, update: {chosen.update};",
            Dataset(images.source, images.digest, len(trained.answers),
                    "Two classes at a time; all are asked at the end."),
            {name: str(value) for name, value in asdict(chosen).items()},
            precision="float32", epochs=1, rate=chosen.step_rate, seed=SEED, target_accuracy=chosen.target,
            figures=_figures(trained.training, document), must_learn=chosen.size == "ci" and chosen.update != "ncm",
            limits=LIMITS[chosen.size],
        )  # fmt: skip
        return _in_order(prepared, Decisions(chosen, stream, trained), document["order"])


def _check_size(variant: Variant, stream: Stream) -> None:
    """Refuse what would be learnt for days and then be no job."""
    if variant.rows == 1:
        return
    steps = sum(variant.rehearsal().task_steps(len(task)) for task in stream.tasks)
    size = steps * variant.rows * stream.samples[0].nbytes
    if size > MOST_JOB_BYTES:
        raise ConfigError(
            f"sparcl: {steps} steps of {variant.rows} samples are a job of {size / 2**30:.0f} GiB; at most "
            f"{MOST_JOB_BYTES / 2**30:.0f} can be",
            hint="fewer samples= or epochs=, or norm=single, whose job has each sample once",
        )


@dataclass(frozen=True)
class Decisions:
    """What a device must come to besides losses and weights.

    Attributes:
        variant, stream: what was learnt.
        trained: on this computer.
    """

    variant: Variant
    stream: Stream
    trained: Trained

    def check(self, losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        """Judge which samples the device's losses remove, which logits it stored, and which blocks it keeps.

        Raises:
            WorkloadError: others than were left out of its steps, or than PyTorch's.
        """
        if self.variant.update == "ncm":
            return []
        tie = LIMITS[self.variant.size].loss
        removed = removals_alike(self.stream, self.variant.rehearsal(), self.trained.losses, losses, tie)
        if removed < MIN_REMOVALS_ALIKE[self.variant.size]:
            raise WorkloadError(
                "the device's losses remove other samples than were left out of its steps: "
                f"{removed:.2%} are the same, at least {MIN_REMOVALS_ALIKE[self.variant.size]:.0%} must be",
                hint="its losses are ordered otherwise than PyTorch's: compare them in the run's records",
            )
        found = self.trained.training.to_torch(variables)
        return [
            *self._check_sizes(found, LOGITS, "logits_error", "logits that the device stored"),
            *self._check_sizes(found, STATISTICS, "statistics_error", "running statistics"),
            *self._check_blocks(found),
        ]

    def _check_sizes(
        self, found: Mapping[str, FloatArray], endings: str | tuple[str, ...], metric: str, what: str
    ) -> list[Score]:
        """Judge what the device made of its own answers."""
        theirs = {name: one for name, one in self.trained.variables.items() if name.endswith(endings)}
        if not theirs:
            return []
        away = sum(float(np.square(found[name] - one).sum()) for name, one in theirs.items())
        error = (away / sum(float(np.square(one).sum()) for one in theirs.values())) ** 0.5
        limit = LIMITS[self.variant.size].update
        if not error <= limit:
            raise WorkloadError(
                f"the {what} are off PyTorch's by {error:.2g} of their size; at most {limit} is allowed"
            )
        return [Score(metric, error, 0.0)]

    def _check_blocks(self, found: Mapping[str, FloatArray]) -> list[Score]:
        blocks = {name: one for name, one in self.trained.variables.items() if name.endswith(BLOCKS)}
        if not blocks:
            return []
        alike = float(np.mean([_shared(found[name], theirs) for name, theirs in blocks.items()]))
        if alike < MIN_MASK_AGREEMENT:
            raise WorkloadError(
                f"{alike:.2%} of the blocks that the device keeps PyTorch keeps too; at least {MIN_MASK_AGREEMENT:.0%} "
                "must be"
            )
        return [Score("mask_agreement", alike, 1.0)]


def _shared(ours: FloatArray, theirs: FloatArray) -> float:
    """Share of the block numbers (outputs, kept) that are in both, wherever they lie in a row."""
    return float(np.mean([np.isin(row, other).mean() for row, other in zip(ours, theirs, strict=True)]))


def _weights_alone(trained: Trained) -> Trained:
    """Without what else is changed, whose sizes say nothing of a distance between weights."""

    def weights(found: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        others = (BLOCKS, THRESHOLD, NEXT, LOGITS, *STATISTICS)
        return {name: one for name, one in found.items() if not name.endswith(others)}

    return replace(trained, variables=weights(trained.variables), initial=weights(trained.initial))


def _in_order(prepared: Prepared, decisions: Decisions, order: list[int]) -> Prepared:
    """The same, its steps in the stream's order, and judged by what they decide as well."""
    plan, stream = prepared.training, decisions.stream
    if plan is None:
        raise ValueError("a continual learner trains")
    rate, rows = decisions.variant.step_rate, decisions.variant.rows
    if rows > 1:
        taken = np.array(order).reshape(-1, rows)
        targets = stream.labels[taken].astype(np.int32)
        job = training_job(stream.samples[taken], targets, learning_rate=rate, seed=SEED)
    else:
        samples, labels, epochs = packed(stream.samples, stream.labels, len(order))
        targets = labels.astype(np.int32)
        job = training_job(samples, targets, epochs=epochs, learning_rate=rate, seed=SEED, order=order)
    inner = plan.check

    def check(losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        return [*inner(losses, variables), *decisions.check(losses, variables)]

    return replace(prepared, training=replace(plan, job=job, check=check))


def _produce(variant: Variant, images: Images) -> cached.Entry:
    from lab.compiler.operations.replay import Replay
    from lab.workloads.continual import sparcl_host as host
    from lab.workloads.continual.sparcl_masks import blocks_of

    if variant.update == "ncm":
        learnt = host.average(stream_of(variant, images), variant.samples)
    else:
        plan = variant.rehearsal()
        stored = Replay(variant.buffer, variant.batch, DISTIL, REHEARSE, SEED, variant.rows)
        replay = stored if variant.replay == "der" else None
        blocks = {} if variant.update == "dense" else blocks_of(variant, plan)
        streams = [stream_of(variant, images, order) for order in range(variant.orders)]
        recipe = host.Recipe(variant.size, variant.hidden, blocks, plan, variant.step_rate, replay, variant.norm)
        learnt = host.learn(recipe, streams)
    return to_entry(
        learnt.trained,
        {"order": learnt.order, "step_macs": learnt.step_macs, "orders": learnt.orders,
         "forgetting": learnt.forgetting},
    )  # fmt: skip


def _figures(training: CompiledTraining, document: Mapping[str, object]) -> tuple[Figure, ...]:
    order, macs, orders, forgetting = (document[one] for one in ("order", "step_macs", "orders", "forgetting"))
    if not (isinstance(order, list) and isinstance(orders, list) and isinstance(macs, int)):
        raise TypeError("the cache's entry is no stream's")
    host = f"mean over {len(orders)} {'order' if len(orders) == 1 else 'orders'} of the classes, by the C on the host"
    steps = len(order) // training.batch
    return (
        Figure("steps", steps, "1", "of a sample, or of a batch with norm=batch; rehearsal among them"),
        Figure("macs.step", macs, "MACs", "forward and backward, analytic; of masked gradients the share let through"),
        Figure("macs.training", macs * steps, "MACs", "of all steps, analytic"),
        Figure("memory.m4", training.arena_bytes + training.variables_bytes, "bytes",
               "planned arena of a step and trained variables: what the firmware has"),
        Figure("accuracy.orders", float(np.mean(orders)), "1", host),
        Figure("forgetting", float(str(forgetting)), "1", f"fall of an earlier task's accuracy since; {host}"),
    )  # fmt: skip


WORKLOAD = SparCL()
