"""EAR: an encoder that stays, and an adaptor for each domain that a router opens. Efficient Model Adaptation, S187.

A domain is told by hypervectors: random projections of what the encoder's early maps hold, whose mean over a few images
is the domain's bundle. A domain whose bundle is like none that is known is out of distribution and gets an adaptor, of
a size that an untrained score chooses. Only that adaptor is then trained, from a few images, while all else stays, so
that nothing which was known before is forgotten. The device averages the bundles, trains, and routes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np

from lab.errors import ConfigError, WorkloadError
from lab.events import Job
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import (
    EVERY_CLASS,
    Claim,
    Dataset,
    DeviceClass,
    Figure,
    FloatArray,
    Int8Array,
    Prepared,
    Room,
    Score,
    Survey,
)
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.continual.ear_claims import CLAIMS
from lab.workloads.data import digits, image_folder
from lab.workloads.options import Allowed, one_of, read_sized, within
from lab.workloads.training import own_images
from lab.workloads.training.agreement import Limits
from lab.workloads.training.transfer import (
    Trained,
    Transfer,
    cache_key,
    from_entry,
    prepared_of,
    to_entry,
    train_on_host,
)
from lab.workloads.training.turned_digits import SEED, SOURCES

if TYPE_CHECKING:
    from lab.workloads.continual.ear_domains import Known

Update: TypeAlias = Literal["ear", "shared", "full"]
Size: TypeAlias = Literal["ci", "paper"]
CLASSES = 10
DIGITS_MB = "digits-mb"
SHARED_RANK = 16
ADAPTOR = ("down.", "up.", "head.")
"""Begins of the names of what an adaptor trains."""
MAX_BUNDLE_ERROR = 0.01
"""How far an element of a bundle, −1 to 1, may be from PyTorch's: one element of one image in the middle of its steep
part moves a mean by less."""
ENROLMENT = ("size", "new", "shots", "dimensions", "network", "data", "image", "samples", "evaluated")
"""Options that bundles depend on."""
LIMITS: Mapping[Size, Limits] = {
    "ci": Limits(loss=0.02, update=0.25), "paper": Limits(loss=0.02, update=0.25, autograd=1e-3),
}  # fmt: skip
"""As of tinytl: a last bit at a ReLU's corner; full training makes much of it. Hypervectors and the router's softmax
make thousands of a last bit in a deep encoder's maps: seen 2e-4 of the way with MobileNetV2."""
_HERE = Path(__file__).parent
_SOURCES = (
    *SOURCES, *sorted(_HERE.glob("ear*.py")), *sorted((_HERE.parent / "networks").glob("*.py")),
    Path(own_images.__file__), Path(image_folder.__file__),
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """What is trained, and from what.

    Attributes:
        size: ``ci``; ``paper``: an encoder and folders of images that the user has.
        update: ``ear``; ``shared``: one adaptor for all domains, no router; ``full``: the whole network, domain after
            domain.
        new: classes that the source lacks; they come with the later domains, dealt in turn.
        shots: images of each domain that bundles and adaptors are made from.
        epochs, rate: passes over a domain's images, learning rate.
        alike: bundles more alike than this are one domain.
        evaluated: held-out images that are asked in each domain.
        dimensions: of a hypervector.
        network: the encoder; of the paper's size from the user's weights.
        data: the domains: folders below ``images/``, joined by ``+``, the source first.
        image: pixels along a side.
        samples: images of the source that the classifier of a published encoder learns from.
        target: accuracy whose time is told.
    """

    size: Size = "ci"
    update: Update = "ear"
    new: int = 0
    shots: int = 30
    epochs: int = 4
    rate: float = 0.05
    alike: float = 0.8
    evaluated: int = 50
    dimensions: int = 256
    network: str = DIGITS_MB
    data: str = ""
    image: int = 16
    samples: int = 0
    target: float = 0.6


PAPER = Variant(
    size="paper", dimensions=4096, network="mobilenet-v2", data="photo+art_painting+cartoon+sketch", image=128,
    samples=500,
)  # fmt: skip
"""The domains of PACS (Li et al., "Deeper, Broader and Artier Domain Generalization", 2017)."""
ALLOWED: tuple[Allowed, ...] = (
    one_of("update", get_args(Update)),
    within("new", 0, 100),
    within("shots", 2, 200),
    within("epochs", 1, 50),
    within("rate", 1e-6, 1),
    within("alike", -1, 1),
    within("evaluated", 2, 300),
    within("dimensions", 64, 10_000),
    within("target", 0.1, 1),
)
SIZES: Mapping[str, tuple[Variant, tuple[Allowed, ...]]] = {
    "ci": (Variant(), (*ALLOWED, *(one_of(one, (getattr(Variant(), one),), "of size=paper")
                                   for one in ("network", "data", "image", "samples")))),
    "paper": (PAPER, (
        *ALLOWED, one_of("network", own_images.NETWORKS), own_images.folder("data"),
        one_of("image", own_images.IMAGES), within("samples", 2, own_images.MOST_IMAGES),
    )),
}  # fmt: skip


def parse(text: str) -> Variant:
    """A variant from ``update=full,shots=20``; what is not named keeps its default.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read_sized("ear", SIZES, text)


def _known(variant: Variant, cache: Path) -> Known:
    """Domains and network of a size."""
    from lab.workloads.continual import ear_domains

    known = ear_domains.known_digits if variant.size == "ci" else ear_domains.known_images
    return known(variant, cache)


def _digest(variant: Variant, cache: Path) -> tuple[str, str]:
    """Name and SHA-256, hex, of what all is made from.

    Raises:
        ConfigError: it is not there, or damaged.
    """
    if variant.size == "ci":
        return digits.SOURCE, digits.digest(digits.find())
    known = _known(variant, cache)
    return known.source, known.digest


class Ear:
    """The workload. Variants: ``update=ear|shared|full``, ``new=``, ``shots=``, ``epochs=``, ``rate=``, ``alike=``,
    ``evaluated=``, ``dimensions=``, ``target=``, separated by commas; with ``size=paper`` also ``network=``, ``data=``,
    ``image=``, ``samples=``.
    """

    id: str = "ear"
    title: str = "Adaptors behind a frozen encoder, one for each domain, routed by hypervectors (EAR)"
    family: str = "continual"
    systems: tuple[str, ...] = ("S187",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ("update=full,rate=0.02", "update=shared")
    claims: tuple[Claim, ...] = CLAIMS
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Pre-train, compile and train on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, or no data.
        """
        chosen = parse(variant)
        data = _digest(chosen, cache)
        return _enrolling(chosen, cache, data) if chosen.update == "ear" else _trained(chosen, cache, data, None)


# ---- what runs first ----------------------------------------------------------------------------------------------


def _enrolling(variant: Variant, cache: Path, data: tuple[str, str]) -> Prepared:
    """The device averages each domain's hypervectors; what it is given then depends on these."""
    options = {name: value for name, value in asdict(variant).items() if name in ENROLMENT}
    key = cache_key(options, data[1], *_SOURCES)
    entry = cached.obtain(cache / "workloads", "ear-enrolment", key, lambda: _enrolment(variant, cache))
    model = model_from_json(entry.document)
    samples, expected = (entry.arrays[name].astype(np.float32) for name in ("samples", "bundles"))
    labels = np.tile(np.arange(len(expected)), variant.shots).astype(np.int32)
    training = model.training
    if training is None:
        raise ValueError("enrolment trains its bundles")

    def decide(raw: Mapping[str, bytes], room: Room) -> Prepared:
        bundles = training.to_torch(raw)["bundles"]
        score = check_bundles(bundles, expected)
        adaptors = adaptors_for(np.where(bundles >= 0, 1, -1), variant.alike)
        prepared = _trained(variant, cache, data, Enrolled(bundles, adaptors))
        return _with_scores(prepared, (score,))

    return Prepared(
        model=model,
        job=Job("infer", samples.tobytes(), len(samples)),
        dataset=Dataset(*data, len(samples)),
        reference_outputs=np.zeros((len(samples), 1), np.int8),
        seed=SEED,
        parameters={name: str(value) for name, value in asdict(variant).items()},
        check=_refuse,
        survey=Survey(model, (training_job(samples, labels, learning_rate=0.0, seed=SEED),), decide),
    )


def _refuse(outputs: Int8Array) -> list[Score]:
    raise WorkloadError("an enrolment answers no questions: its `decide` yields what does")


def check_bundles(found: FloatArray, expected: FloatArray) -> Score:
    """The bundles of a device.

    Raises:
        WorkloadError: not PyTorch's.
    """
    error = float(np.abs(found - expected).max())
    if not error <= MAX_BUNDLE_ERROR:
        raise WorkloadError(
            f"an element of a domain's bundle is off PyTorch's by {error:.2g}; at most {MAX_BUNDLE_ERROR} is allowed"
        )
    return Score("bundle_error", error, 0.0)


def adaptors_for(signs: np.ndarray, alike: float) -> tuple[int, ...]:
    """Number of each domain's adaptor; −1 for those that need none.

    Args:
        signs: (domains, dimensions), −1 or 1; the first is the source.
        alike: a domain whose bundle is more like an earlier one's than this is that domain.

    Raises:
        ConfigError: every domain is like the source.
    """
    adaptors = [-1]
    for number in range(1, len(signs)):
        similarities = (signs[:number] @ signs[number]) / signs.shape[1]
        nearest = int(similarities.argmax())
        adaptors.append(adaptors[nearest] if similarities[nearest] > alike else max(adaptors) + 1)
    if max(adaptors) < 0:
        raise ConfigError(
            f"ear: no domain is out of distribution: every bundle is more than {alike:g} like the source's",
            hint="a larger alike=, or the network as it is",
        )
    return tuple(adaptors)


def _enrolment(variant: Variant, cache: Path) -> cached.Entry:
    from torch.nn import functional

    from lab.compiler.operations.optimizer import Sgd
    from lab.compiler.training import compile_training
    from lab.compiler.training_passes.observe import ClassMeans
    from lab.workloads.continual import ear_host as host
    from lab.workloads.continual.ear_domains import material

    parts = host.parts(_known(variant, cache), variant.dimensions)
    domains = len(parts.domains)
    drawn = material(parts.domains, variant.shots, 1, 1)
    made = compile_training(
        host.Enrolment(parts.hypervectors, domains).eval(), drawn.enrolled[:1], loss=functional.cross_entropy, train={},
        optimizer=Sgd(), name="ear_enrolment", means=ClassMeans("bundles", 0.0, domains, variant.shots),
    )  # fmt: skip
    bundles = host.bundles_of(parts.hypervectors, drawn.enrolled, domains)
    samples = drawn.enrolled.permute(0, 2, 3, 1).contiguous().numpy()
    return cached.Entry(model_to_json(made.compiled), {"samples": samples, "bundles": bundles})


# ---- what trains --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Enrolled:
    """What a router is made of: bundles (domains, dimensions), and the number of each domain's adaptor."""

    bundles: FloatArray
    adaptors: tuple[int, ...]


def _trained(variant: Variant, cache: Path, data: tuple[str, str], enrolled: Enrolled | None) -> Prepared:
    """What is deployed to train; without a router where nothing is enrolled."""
    options: dict[str, object] = dict(asdict(variant))
    if enrolled is not None:
        signs = np.packbits(enrolled.bundles >= 0).tobytes().hex()
        options |= {"adaptors": enrolled.adaptors, "signs": signs}
    key = cache_key(options, data[1], *_SOURCES)
    entry = cached.obtain(cache / "workloads", "ear", key, lambda: _produce(variant, cache, enrolled))
    trained, document = from_entry(entry), json.loads(entry.document)
    domains = np.repeat(np.arange(len(trained.answers) // variant.evaluated), variant.evaluated)
    ranks, adaptors = document["ranks"], document["adaptors"]
    grown = "no router" if enrolled is None else f"adaptors of rank {ranks}, by domain {adaptors}"
    prepared = prepared_of(
        trained,
        f"{variant.network}, {', '.join(document['domains'])}; {grown}, update: {variant.update};",
        Dataset(*data, len(trained.answers), "Held-out images of every domain."),
        {name: str(value) for name, value in asdict(variant).items()},
        precision="float32", epochs=1, rate=variant.rate, seed=SEED, target_accuracy=variant.target,
        figures=_figures(trained, document), must_learn=variant.size == "ci" and variant.update == "ear",
        limits=LIMITS[variant.size],
    )  # fmt: skip
    inner = prepared.check

    def scores(outputs: Int8Array) -> list[Score]:
        return domain_scores(outputs, trained.answers, domains, document["classes"], variant.new)

    def check(outputs: Int8Array) -> list[Score]:
        theirs = {one.metric: one.value for one in scores(trained.outputs)}
        ours = scores(outputs)
        return [*inner(outputs), *(replace(one, reference=theirs[one.metric]) for one in ours)]

    return replace(prepared, check=check)


def domain_scores(
    outputs: Int8Array, answers: np.ndarray, domains: np.ndarray, classes: int = CLASSES, new: int = 0
) -> list[Score]:
    """Accuracy in the source domain, of classes that it lacks and of the others, and of a router the share of inputs
    sent to their own domain and how well the similarity to the source tells it from the others (area under the curve,
    the least over the domains).

    Args:
        outputs: float32 logits and similarities as bytes.
        answers, domains: of each question.
        classes: logits come first, one for each.
        new: how many of these, the last, the source lacks.
    """
    values = np.ascontiguousarray(outputs).view(np.float32)
    right = values[:, :classes].argmax(1) == answers
    parts = {"accuracy.source": right[domains == 0]}
    if new:
        later = answers >= classes - new
        parts |= {"accuracy.new": right[later], "accuracy.old": right[~later]}
    scores = [Score(name, float(part.mean()), 0.0, trials=len(part)) for name, part in parts.items() if len(part)]
    if values.shape[1] == classes:
        return scores
    similarities = values[:, classes:]
    routed = similarities.argmax(1) == domains
    own = similarities[domains == 0, 0][:, None]
    areas = [_area(own, similarities[domains == other, 0]) for other in range(1, int(domains.max()) + 1)]
    return [*scores, Score("routing", float(routed.mean()), 0.0, trials=len(routed)), Score("auroc", min(areas), 0.0)]


def _area(known: np.ndarray, others: np.ndarray) -> float:
    """Share of pairs in which the known one is the larger; ties count half."""
    return float(np.mean((known > others) + 0.5 * (known == others)))


def _with_scores(prepared: Prepared, more: tuple[Score, ...]) -> Prepared:
    plan = prepared.training
    if plan is None:
        raise ValueError("adaptors are trained")
    inner = plan.check

    def check(losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        return [*more, *inner(losses, variables)]

    return replace(prepared, training=replace(plan, check=check))


def _produce(variant: Variant, cache: Path, enrolled: Enrolled | None) -> cached.Entry:
    from lab.workloads.continual import ear_host as host
    from lab.workloads.continual.ear_domains import material

    parts = host.parts(_known(variant, cache), variant.dimensions)
    drawn = material(parts.domains, variant.shots, variant.epochs, variant.evaluated)
    ranks: list[int] = []
    if enrolled is not None:
        network, ranks = host.routed(parts, drawn, enrolled.bundles, enrolled.adaptors)
    else:
        network = host.shared(parts, SHARED_RANK) if variant.update == "shared" else host.whole(parts)
    names = [name for name, _ in network.named_parameters()]
    chosen = names if variant.update == "full" else [name for name in names if name.startswith(ADAPTOR)]
    trained = train_on_host(
        Transfer(
            name="ear", network=network, selection=dict.fromkeys(chosen), precision="float32", samples=drawn.learnt,
            labels=drawn.labels, asked=drawn.asked, answers=drawn.answers, calibration=drawn.learnt[:0], epochs=1,
            rate=variant.rate, seed=SEED, limits=LIMITS[variant.size],
        )
    )  # fmt: skip
    sizes = dict(network.named_parameters())
    per_domain = 4 * sum(sizes[name].numel() for name in chosen) / max(1, len(ranks))
    own = 0 if enrolled is None else 4 * variant.dimensions
    adaptors = () if enrolled is None else enrolled.adaptors
    document = {"adaptors": adaptors, "ranks": ranks, "domains": list(parts.domains), "domain_bytes": per_domain + own,
                "classes": parts.classifier.out_features + variant.new}  # fmt: skip
    return to_entry(trained, document)


def _figures(trained: Trained, document: Mapping[str, object]) -> tuple[Figure, ...]:
    training = trained.training
    return (
        Figure("memory.domain", float(str(document["domain_bytes"])), "bytes", "what one more domain keeps for itself"),
        Figure("memory.m4", training.arena_bytes + training.variables_bytes, "bytes",
               "planned arena of a step and trained variables: what the firmware has"),
        Figure("macs.backward", training.macs("backward"), "MACs", "of a backward pass and its updates, analytic"),
    )  # fmt: skip


WORKLOAD = Ear()
