"""What TinyTrain needs of this computer, each part cached: the backbone, the task, the programs and PyTorch's figures.

Torch is imported only where the cache has no entry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import lab.compiler
from lab import progress
from lab.compiler.layer_costs import LayerCost
from lab.runtime_files import RUNTIME
from lab.workloads import cache as cached
from lab.workloads.base import FloatArray, Room
from lab.workloads.classification import model_to_json
from lab.workloads.training import tinytrain_arms as arms
from lab.workloads.training.agreement import ROUNDING, nearly
from lab.workloads.training.tinytrain_arms import META_PLAN, SEED, IntArray, MetaPlan, Part, Parts, Variant
from lab.workloads.training.tinytrain_checks import Steps, Tolerance, tolerance_of
from lab.workloads.training.tinytrain_selection import with_class_means
from lab.workloads.training.tinytrain_sources import DIGITS, NETWORK_FILES, Source, own_source

if TYPE_CHECKING:
    import torch
    from torch import nn

    from lab.compiler.training_passes.observe import ClassMeans
    from lab.workloads.training.few_shot import PrototypeNet

TASKS = 8
TASK_QUERIES = 40
"""Tasks, and images of each class that are asked in them, over which a method's accuracy is averaged on this computer:
one task of 50 images says little."""
PAPERS_BATCH = 100
PREFIX = "backbone."
ROOMY = Room(1 << 40, 1 << 40)
_HERE = Path(__file__).parent
_WORKLOADS = _HERE.parent
_LEARNING = (
    *(_HERE / "few_shot.py", _HERE / "tinytrain_sources.py", _WORKLOADS / "data" / "omniglot.py"),
    _WORKLOADS / "fitting.py",
    *(_WORKLOADS / "networks" / f"{name}.py" for name in NETWORK_FILES),
)


@dataclass(frozen=True)
class Task:
    """What a device is given: NHWC float32 images and labels, of what is learnt from and of what is asked."""

    support: FloatArray
    support_labels: IntArray
    queries: FloatArray
    query_labels: IntArray
    digest: str


@dataclass(frozen=True)
class Workshop:
    """Makes what a variant needs.

    Attributes:
        variant: what is asked for.
        cache: cache folder of the lab.
        plan: of the meta-training.
        source: of network and images.
    """

    variant: Variant
    cache: Path
    plan: MetaPlan = META_PLAN
    source: Source = DIGITS

    # ---- the backbone ---------------------------------------------------------------------------------------------

    def backbone(self) -> cached.Entry:
        """The meta-trained backbone, batch norm folded: its tensors, their names, and what its layers cost."""
        compiler = Path(lab.compiler.__file__).parent
        costs = [compiler / f"{name}.py" for name in ("layer_costs", "memory_definitions", "update_schemes")]
        parts = {**self.source.identity(), "plan": repr(self.plan), **_versions()}
        key = cached.key(parts, [*_LEARNING, *costs])
        return cached.obtain(self.cache / "workloads", "tinytrain-backbone", key, self._learn)

    def _learn(self) -> cached.Entry:
        import torch

        from lab.compiler.layer_costs import layer_list
        from lab.compiler.memory_definitions import backward_memory
        from lab.compiler.update_schemes import full_update
        from lab.workloads.fitting import seeded
        from lab.workloads.training import few_shot

        with progress.step("tinytrain: reading what is meta-trained on", quiet_below_s=2.0):
            known = self.source.known()
        with seeded(SEED):
            network = few_shot.meta_train(self.source.backbone(), known, self.plan, SEED)
        example = torch.zeros(1, *self.source.shape)
        published = with_class_means(layer_list(self.source.backbone(), example), Variant.ways)
        hundred = backward_memory(
            published, full_update(published), "adam", batch=PAPERS_BATCH, float_activations=True
        ).total_bytes
        state = network.state_dict()
        document = {
            "names": list(state),
            "layers": [asdict(layer) for layer in layer_list(network, example)],
            "full_batch100": hundred,
        }
        return cached.Entry(json.dumps(document), {f"tensor_{n}": one.numpy() for n, one in enumerate(state.values())})

    def layers(self) -> tuple[LayerCost, ...]:
        """Of the backbone, with the product by the class means as the last."""
        document = json.loads(self.backbone().document)
        read = (LayerCost(**{**one, "inputs": tuple(one["inputs"])}) for one in document["layers"])
        return with_class_means(tuple(read), self.variant.ways)

    def network(self, means: FloatArray | None) -> PrototypeNet:
        """The network with these class means, or with means of zero."""
        import torch

        from lab.workloads.networks import folded
        from lab.workloads.training.few_shot import PrototypeNet

        entry = self.backbone()
        made = folded(self.source.backbone())
        names = json.loads(entry.document)["names"]
        made.load_state_dict({name: torch.from_numpy(np.array(entry.arrays[f"tensor_{n}"]))
                              for n, name in enumerate(names)})  # fmt: skip
        depth = self.layers()[-1].input_elements
        start = np.zeros((self.variant.ways, depth), np.float32) if means is None else means
        return PrototypeNet(made, torch.from_numpy(np.array(start)))

    # ---- the task -------------------------------------------------------------------------------------------------

    def task(self) -> Task:
        """The task of the variant.

        Raises:
            ConfigError: scikit-learn's digits cannot be read, or a task of this size cannot be drawn.
        """
        digest = self.source.digest
        asked = {name: str(getattr(self.variant, name)) for name in ("ways", "shots", "queries", "task")}
        key = cached.key({"data": digest, "shape": str(self.source.shape), **asked, **_versions()}, _LEARNING)
        entry = cached.obtain(self.cache / "workloads", "tinytrain-task", key, self._draw)
        arrays = entry.arrays
        return Task(
            arrays["support"].astype(np.float32),
            arrays["support_labels"].astype(np.int64),
            arrays["queries"].astype(np.float32),
            arrays["query_labels"].astype(np.int64),
            digest,
        )

    def _draw(self) -> cached.Entry:
        from lab.workloads.training import few_shot

        drawn = few_shot.draw(self.source.asked(), self.variant, self.variant.task)
        arrays: dict[str, cached.AnyArray] = {
            "support": few_shot.images(drawn.support).numpy().transpose(0, 2, 3, 1),
            "support_labels": drawn.support_labels,
            "queries": few_shot.images(drawn.queries).numpy().transpose(0, 2, 3, 1),
            "query_labels": drawn.query_labels,
        }
        return cached.Entry("{}", arrays)

    # ---- programs -------------------------------------------------------------------------------------------------

    def obtain(self, name: str, parts: Mapping[str, str], produce: Callable[[], cached.Entry]) -> cached.Entry:
        """An entry that depends on the backbone, the variant and ``parts``."""
        sources = [*_HERE.glob("tinytrain_*.py"), *_LEARNING]
        compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
        task, backbone = self.task(), self.backbone()
        tensors = b"".join(backbone.arrays[one].tobytes() for one in sorted(backbone.arrays))
        every = {
            "variant": json.dumps(asdict(self.variant), sort_keys=True),
            "backbone": hashlib.sha256(tensors).hexdigest(),
            "data": task.digest,
            **parts,
            **_versions(),
        }
        key = cached.key(every, [*sources, *compiler, *RUNTIME.rglob("*.[ch]")])
        return cached.obtain(self.cache / "workloads", f"tinytrain-{name}", key, produce)

    def survey(self) -> cached.Entry:
        """What runs first: class means, and Fisher information where the variant chooses by it; with PyTorch's."""
        variant = self.variant
        if variant.update != "tinytrain":
            # One survey serves every baseline: it depends on the images alone.
            default = arms.SIZES[variant.size][0]
            rest = {name: getattr(default, name) for name in ("epochs", "rate", "macs", "memory")}
            static = replace(self, variant=replace(variant, update="none", **rest))
            return static.obtain("survey", {}, lambda: static._survey(()))
        return self.obtain("survey-fisher", {}, lambda: self._survey(arms.inspected(variant.network, self.layers())))

    def _survey(self, observed: Sequence[str]) -> cached.Entry:
        import torch

        from lab.compiler.training_passes.observe import ClassMeans
        from lab.workloads.fitting import seeded
        from lab.workloads.training import few_shot

        task = self.task()
        support = _nchw(task.support)
        means = ClassMeans("prototypes", 0.0, self.variant.ways, self.variant.shots)
        model = self._compiled("tinytrain_survey", self.network(None), {}, means, observed)
        with seeded(SEED):
            backbone = self.network(None).backbone
            averaged = few_shot.class_means(backbone, support, task.support_labels, self.variant.ways).numpy()
            network = self.network(averaged)
            fisher = few_shot.fisher(network, support, task.support_labels, observed)
            with torch.no_grad():
                logits = network(_nchw(task.queries)).numpy()
        arrays: dict[str, cached.AnyArray] = {"prototypes": averaged, "logits": logits}
        arrays |= {f"fisher_{number}": fisher[name] for number, name in enumerate(observed)}
        return cached.Entry(json.dumps({"model": model, "inspected": list(observed)}), arrays)

    def program(self, parts: Parts, means: FloatArray | None) -> cached.Entry:
        """What trains ``parts`` from these class means, with PyTorch's figures; without means, what averages alone."""
        key = {"parts": json.dumps({name: asdict(part) for name, part in parts.items()}, sort_keys=True)}
        if means is not None:
            key["means"] = hashlib.sha256(means.tobytes()).hexdigest()
        return self.obtain(self.variant.update, key, lambda: self._program(parts, means))

    def _program(self, parts: Parts, means: FloatArray | None) -> cached.Entry:
        from lab.compiler.training_passes.observe import ClassMeans

        variant = self.variant
        once, always = ClassMeans("prototypes", 0.0, variant.ways, variant.shots), ClassMeans("prototypes", self.gain)
        model = self._compiled("tinytrain", self.network(means), parts, once if means is None else always, ())
        accuracies: list[float] = []
        tolerance = Tolerance()
        with progress.step("tinytrain: training in PyTorch", quiet_below_s=2.0):
            steps = self._steps(parts, means, accuracies)
            if variant.size == "paper" and means is not None:
                # Hundreds of steps through forty layers: what rounding makes of them is measured, not guessed.
                tolerance = tolerance_of(steps, self._steps(parts, means, [], apart=True))
        names = [*(PREFIX + name for name in parts), "prototypes"]
        arrays: dict[str, cached.AnyArray] = {"losses": steps.losses, "logits": steps.logits}
        for number, (before, after) in enumerate(zip(steps.initial, steps.final, strict=True)):
            arrays |= {f"initial_{number}": before, f"trained_{number}": after}
        document = {"model": model, "names": names, "accuracies": accuracies, "tolerance": asdict(tolerance)}
        return cached.Entry(json.dumps(document), arrays)

    def _steps(
        self, parts: Parts, means: FloatArray | None, accuracies: list[float], *, apart: bool = False
    ) -> Steps:
        """PyTorch's training; ``accuracies`` takes that of each epoch.

        Args:
            parts, means: as of :meth:`program`.
            accuracies: is added to.
            apart: whether it begins with weights that are a rounding apart.
        """
        import torch

        from lab.workloads.fitting import seeded
        from lab.workloads.training import few_shot

        task, variant = self.task(), self.variant
        support, queries = _nchw(task.support), _nchw(task.queries)
        with seeded(SEED), torch.no_grad():
            network = self.network(means)
            named = dict(network.named_parameters())
            if apart:
                weights = {name: one.detach().numpy() for name, one in named.items()}
                for name, changed in nearly(weights, ROUNDING, SEED).items():
                    weights[name][...] = changed
            trained = [named[PREFIX + name] for name in parts] + [network.prototypes]
            initial = [one.detach().numpy().copy() for one in trained]
            losses: list[float] = []
            if means is None:
                averaged = few_shot.class_means(network.backbone, support, task.support_labels, variant.ways)
                network.prototypes.copy_(averaged)
            else:
                with torch.enable_grad():
                    losses = few_shot.adapt(
                        network, {PREFIX + name: part for name, part in parts.items()}, support, task.support_labels,
                        epochs=variant.epochs, rate=variant.rate, gain=self.gain,
                        after_epoch=lambda: accuracies.append(few_shot.accuracy(network, queries, task.query_labels)),
                    )  # fmt: skip
            logits = network(queries).numpy()
            final = [one.detach().numpy().copy() for one in trained]
            return Steps(np.array(losses, np.float32), initial, final, logits)

    @property
    def gain(self) -> float:
        """Share of an image's features in the running mean of its class."""
        return 1 / self.variant.shots

    def _compiled(
        self, name: str, network: nn.Module, parts: Parts, means: ClassMeans, observed: Sequence[str]
    ) -> str:
        import torch

        from lab.compiler.channels import Channels
        from lab.compiler.operations.optimizer import Adam
        from lab.compiler.training import compile_training

        def channels(part: Part) -> Channels | None:
            return None if part == Part() else Channels(inputs=part.inputs, outputs=part.outputs)

        with progress.step(f"{name}: compiling", quiet_below_s=2.0):
            made = compile_training(
                network.eval(),
                torch.zeros(1, *self.source.shape),
                loss=torch.nn.functional.cross_entropy,
                train={PREFIX + one: channels(part) for one, part in parts.items()},
                optimizer=Adam(),
                name=name,
                means=means,
                observe=[PREFIX + one for one in observed],
            )
        return model_to_json(made.compiled)

    # ---- several tasks --------------------------------------------------------------------------------------------

    def accuracy_of_tasks(self) -> float:
        """Mean accuracy over several tasks, trained in PyTorch; TinyTrain's parts are chosen anew for each."""
        entry = self.obtain(f"tasks-{self.variant.update}", {"tasks": f"{TASKS} {self.task_queries}"}, self._several)
        return float(np.mean(json.loads(entry.document)["accuracies"]))

    @property
    def task_queries(self) -> int:
        """Images of each class that are asked in several tasks; a user's folder may have no more than one task asks."""
        return TASK_QUERIES if self.variant.size == "ci" else self.variant.queries

    def _several(self) -> cached.Entry:
        from lab.workloads.fitting import seeded
        from lab.workloads.training import few_shot

        variant, layers, found, classes = self.variant, self.layers(), [], self.source.asked()
        with progress.step(f"tinytrain: {TASKS} tasks, {variant.update}", quiet_below_s=2.0) as step, seeded(SEED):
            for number in range(variant.task, variant.task + TASKS):
                drawn = few_shot.draw(classes, replace(variant, queries=self.task_queries), number)
                support, labels = few_shot.images(drawn.support), drawn.support_labels
                backbone = self.network(None).backbone
                network = self.network(few_shot.class_means(backbone, support, labels, variant.ways).numpy())
                if variant.update == "tinytrain":
                    fisher = few_shot.fisher(network, support, labels, arms.inspected(variant.network, layers))
                    parts, _ = arms.chosen_parts(layers, fisher, arms.budget(variant, layers, ROOMY))
                else:
                    parts = arms.static_parts(variant, layers)
                if parts:
                    few_shot.adapt(
                        network, {PREFIX + name: part for name, part in parts.items()}, support, labels,
                        epochs=variant.epochs, rate=variant.rate, gain=self.gain,
                    )  # fmt: skip
                found.append(few_shot.accuracy(network, few_shot.images(drawn.queries), drawn.query_labels))
                step.update(len(found), TASKS)
        return cached.Entry(json.dumps({"accuracies": found}), {})


def workshop_of(variant: Variant, cache: Path) -> Workshop:
    """Where a variant is made; what a user's folders hold is read here.

    Raises:
        ConfigError: as :func:`lab.workloads.training.tinytrain_sources.own_source`.
    """
    if variant.size == "paper":
        return Workshop(variant, cache, replace(arms.PAPERS_PLAN, episodes=variant.episodes), own_source(variant))
    return Workshop(variant, cache, replace(META_PLAN, episodes=variant.episodes))


def _nchw(samples: FloatArray) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.ascontiguousarray(samples.transpose(0, 3, 1, 2)))


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("numpy", "torch")}
