"""Variants of the continual workloads: which method, network and data, and what each method is made of. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from lab.errors import ConfigError
from lab.workloads.continual.codes import MOST_DIMENSION, STORES, StoreKind
from lab.workloads.continual.learner_plan import Rehearsal, Units
from lab.workloads.continual.tasks import DATA, PAPER_DATA, RECORDED, SAMPLES, Data
from lab.workloads.options import Allowed, one_of, read_sized, within

Method: TypeAlias = Literal[
    "lifelearner", "latent", "latent-oml", "raw", "anml", "oml", "anml+aim", "oml+aim", "pretrained", "oracle", "means"
]
Base: TypeAlias = Literal["pretrained", "oml", "anml"]
Trunk: TypeAlias = Literal["cnn", "ds-cnn", "vit", "yamnet"]
Size: TypeAlias = Literal["ci", "paper"]

SEED = 1
POOLED_DEPLOYMENTS = 4
UNIT_STATE = UNIT_KEYS = 16
PROJECTED = 32
"""Elements of an attentive unit's state, key and query, and value."""
PAPER_UNIT_STATE = PAPER_UNIT_KEYS = 128
PAPER_PROJECTED: Mapping[tuple[Data, Base], int] = {
    ("cifar-100", "anml"): 1024, ("cifar-100", "oml"): 896,
    ("mini-imagenet", "anml"): 1024, ("mini-imagenet", "oml"): 1400,
    ("speech-commands", "anml"): 768, ("speech-commands", "oml"): 336,
    ("esc-50", "anml"): 768, ("esc-50", "oml"): 336,
    ("urbansound8k", "anml"): 768, ("urbansound8k", "oml"): 336,
}  # fmt: skip
"""The same at the paper's size. AIM's authors have those of the images; of speech commands they are what LifeLearner's
table 1 of memory comes to, at 16 bytes for each weight of 64 units; of environmental sounds nobody tells them."""
PAPER_TOKENS, PAPER_DEPTH, PAPER_HEADS = 192, 12, 3
"""ViT-Ti (Touvron et al. 2021, "Training data-efficient image transformers", table 1)."""
ORACLE_EPOCHS = 5
RATES = (3e-4, 1e-3, 2e-3, 3e-3, 6e-3, 1e-2, 2e-2, 3e-2, 6e-2, 1e-1)
"""Of these, each method gets the one that is best on classes of the host: LifeLearner's authors try ten rates as well,
but report the best on the classes that are asked."""
LEFT_OUT = 2
"""Of the best attentive units so many do not answer while the host trains, drawn by chance (Lee et al. 2021)."""
SHORTER_SIDE: Mapping[Data, int] = {
    "cifar-100": 32, "mini-imagenet": 84, "speech-commands": 10, "esc-50": 64, "urbansound8k": 85,
}  # fmt: skip
"""Of a sample at the paper's size: no patch of a transformer is larger."""


@dataclass(frozen=True)
class Recipe:
    """What a method is made of.

    Attributes:
        base: how the host has trained the extractor.
        rehearsal: what the device keeps and learns again.
        store: how it keeps latents; None for what the variant says.
        epochs: passes over all samples in random order, of the oracle; None for classes one after another, once.
        attentive: whether attentive units stand before the classifier and are learnt with it.
    """

    base: Base
    rehearsal: Rehearsal
    store: StoreKind | None = "float32"
    epochs: int | None = None
    attentive: bool = False


RECIPES: Mapping[Method, Recipe] = {
    "lifelearner": Recipe("anml", "latents", None),
    "latent": Recipe("anml", "latents"),
    "latent-oml": Recipe("oml", "latents"),
    "raw": Recipe("anml", "samples"),
    "anml": Recipe("anml", "none"),
    "oml": Recipe("oml", "none"),
    "anml+aim": Recipe("anml", "none", attentive=True),
    "oml+aim": Recipe("oml", "none", attentive=True),
    "pretrained": Recipe("pretrained", "none"),
    "oracle": Recipe("anml", "none", epochs=ORACLE_EPOCHS),
    "means": Recipe("anml", "means"),
}


@dataclass(frozen=True)
class Variant:
    """What is learnt, and how.

    Attributes:
        size: ``ci``, or ``paper``: the paper's data from a user's folder, at the paper's widths.
        method: which method, see :data:`RECIPES`.
        network: the extractor's convolutions, a vision transformer, or YAMNet with the user's weights.
        data: what is learnt.
        classes, shots, questions: classes, samples of each to learn from, and others of each to be asked.
        store, dimension: how LifeLearner keeps latents, and values in a group of its product quantisation.
        room: KiB for the store; 0 for what all classes are expected to need.
        batch, epochs: of rehearsal.
        rate: learning rate; 0 for the best of :data:`RATES` on classes of the host.
        task: which classes are drawn.
        meta: classes of meta-training, one a step.
        units, active: attentive units, and how many of them answer a latent.
        width: of the paper's channels and of its attentive units' elements, at its size; LifeLearner's for
            microcontrollers has 0.05 to 0.4.
        depth, heads, embed, patch: of a transformer at the paper's size: blocks, heads of each, elements of a token,
            and pixels along a patch's side; 0 for ViT-Ti's, and for patches that part each side in about six.
    """

    size: Size = "ci"
    method: Method = "lifelearner"
    network: Trunk = "cnn"
    data: Data = "characters"
    classes: int = 10
    shots: int = 10
    questions: int = 10
    store: StoreKind = "bitmap+pq"
    dimension: int = 16
    room: int = 0
    batch: int = 8
    epochs: int = 1
    rate: float = 0.0
    task: int = 0
    meta: int = 200
    units: int = 32
    active: int = 5
    width: float = 1.0
    depth: int = 0
    heads: int = 0
    embed: int = 0
    patch: int = 0

    @property
    def recipe(self) -> Recipe:
        """What the method is made of."""
        return RECIPES[self.method]

    @property
    def pool(self) -> int:
        """Classes that are turned into latents, of the host's and of the unseen ones: those of some deployments, or of
        one at the paper's size. The integer reference takes its time."""
        return self.classes * (POOLED_DEPLOYMENTS if self.size == "ci" else 1)

    @property
    def samples(self) -> int:
        """Of each of these classes."""
        asked = self.shots + self.questions
        return max(SAMPLES, asked) if self.size == "ci" else asked

    @property
    def attention(self) -> Units | None:
        """Sizes of the attentive units; None for a method without."""
        if not self.recipe.attentive:
            return None
        if self.size == "ci":
            return Units(self.units, self.active, UNIT_STATE, UNIT_KEYS, PROJECTED, PROJECTED)
        state, keys, projected = (
            max(1, round(one * self.width))
            for one in (PAPER_UNIT_STATE, PAPER_UNIT_KEYS, PAPER_PROJECTED[self.data, self.recipe.base])
        )
        return Units(self.units, self.active, state, keys, projected, projected)

    @property
    def float_extractor(self) -> bool:
        """Whether the device extracts in float32 and rounds the latent: attention and layer norm have no int8 form."""
        return self.network == "vit"

    @property
    def kind(self) -> StoreKind:
        """How latents are kept."""
        return self.recipe.store or self.store


TRANSFORMER = ("depth", "heads", "embed", "patch")
ALLOWED: tuple[Allowed, ...] = (
    one_of("size", get_args(Size)),
    one_of("method", get_args(Method)),
    one_of("network", ("cnn", "ds-cnn", "vit"), "cnn, ds-cnn, vit; yamnet is for size=paper"),
    one_of("data", DATA),
    within("classes", 2, 100),
    within("shots", 1, 19),
    within("questions", 1, 19),
    one_of("store", STORES),
    within("dimension", 1, MOST_DIMENSION),
    within("room", 0, 1 << 14),
    within("batch", 1, 64),
    within("epochs", 1, 20),
    within("rate", 0, 10),
    within("task", 0, 10_000),
    within("meta", 1, 100_000),
    within("units", 3, 256),
    within("active", 1, 32),
    one_of("width", (1.0,), "1; other widths are for size=paper"),
    *(one_of(name, (0,), "0; other sizes of a transformer are for size=paper") for name in TRANSFORMER),
)
PAPER = Variant(
    size="paper", data="cifar-100", classes=30, shots=30, questions=30, dimension=32, meta=20_000, units=64, active=10
)
"""LifeLearner, section 5.1: 30 samples of each of 30 classes, after 20,000 steps of meta-training."""
PAPER_ALLOWED: tuple[Allowed, ...] = (
    *(one for one in ALLOWED if one.name not in ("network", "data", "shots", "questions", "width", *TRANSFORMER)),
    one_of("network", ("cnn", "vit", "yamnet"), "cnn, vit, yamnet; ds-cnn is for size=ci"),
    one_of("data", PAPER_DATA),
    within("shots", 1, 100),
    within("questions", 1, 100),
    within("width", 0.02, 1),
    within("depth", 0, 48),
    within("heads", 0, 64),
    within("embed", 0, 2048),
    within("patch", 0, 84),
)


def parse(workload: str, text: str) -> Variant:
    """A variant from ``method=anml,classes=20``; what is not named keeps its default.

    Raises:
        ConfigError: an unknown name, a value that is not allowed, questions that do not fill passes of ``shots``,
            images for YAMNet, or sizes of a transformer that cannot be.
    """
    variant = read_sized(workload, {"ci": (Variant(), ALLOWED), "paper": (PAPER, PAPER_ALLOWED)}, text)
    _check_network(workload, variant)
    if variant.active + LEFT_OUT > variant.units:
        raise ConfigError(
            f"{workload}: {variant.active} active units and {LEFT_OUT} that are left out by chance in training cannot "
            f"be drawn from {variant.units}",
            hint=f"active= at most {variant.units - LEFT_OUT}, or more units=",
        )
    if variant.classes * variant.questions % variant.shots:
        raise ConfigError(
            f"{workload}: {variant.classes} classes of {variant.questions} questions are "
            f"{variant.classes * variant.questions}, and a pass of the device takes {variant.shots}, as many as shots",
            hint="make the questions a multiple of the shots",
        )
    return variant


def _check_network(workload: str, variant: Variant) -> None:
    if variant.network == "yamnet" and variant.data not in RECORDED:
        raise ConfigError(
            f"{workload}: network=yamnet takes recordings; data={variant.data} has none",
            hint=f"data={', '.join(RECORDED)}",
        )
    asked = [name for name in TRANSFORMER if getattr(variant, name)]
    if asked and variant.network != "vit":
        raise ConfigError(
            f"{workload}: {asked[0]}={getattr(variant, asked[0])} is a size of a transformer, not of {variant.network}",
            hint="it is an option of network=vit",
        )
    heads = variant.heads or PAPER_HEADS
    if variant.embed % heads or (variant.heads and not variant.embed):
        raise ConfigError(
            f"{workload}: {heads} heads cannot share tokens of embed={variant.embed} elements",
            hint="embed= as well as heads=, a multiple of it",
        )
    if variant.patch > (most := SHORTER_SIDE.get(variant.data, variant.patch)):
        raise ConfigError(
            f"{workload}: a patch of {variant.patch} pixels is larger than data={variant.data}", hint=f"at most {most}"
        )
