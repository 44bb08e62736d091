"""YONO (S009, Kwon et al. 2022): networks stored by one shared codebook, decoded on the device when they are asked.

Three networks answer in turn; each is decoded into one region of RAM (region ``switch``) before it infers. Controls:
the same networks in int8 in flash, copied from there, coded without training around the codes, k-means of single
weights, and one network with three heads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

import lab.compiler
from lab.errors import DoesNotFit
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.workloads import cache as cached
from lab.workloads import parts, trained
from lab.workloads.base import EVERY_CLASS, Claim, Dataset, DeviceClass, Figure, Int8Array, Prepared, Score, StreamPlan
from lab.workloads.classification import model_from_json, must_equal
from lab.workloads.continual import codes
from lab.workloads.data import cifar10, corruptions, digits, inertial, made_series, mfcc, mnist, speech_commands
from lab.workloads.many_models import own_tasks, tasks
from lab.workloads.many_models.claims import BASELINES, claims
from lab.workloads.many_models.options import Variant, parse

METERED = 30
UART_BITS_PER_S, UART_BITS_PER_BYTE = 115_200, 10
SD_BITS_PER_S = 25_000_000
"""Default speed of SD cards (Physical Layer Simplified Specification), one line: an upper bound of what SPI reaches."""
SECTOR_BYTES, SECTOR_ERASE_S, WORD_PROGRAM_S = 16_384, 0.25, 16e-6
"""STM32F405/407, DS8626, flash memory programming in words of 32 bits, typical."""
SOURCES = (
    *Path(__file__).parent.glob("*.py"), Path(corruptions.__file__), Path(digits.__file__), Path(made_series.__file__),
    Path(codes.__file__), Path(parts.__file__), Path(trained.__file__),
    Path(cifar10.__file__), Path(inertial.__file__), Path(mfcc.__file__), Path(mnist.__file__),
    Path(speech_commands.__file__),
)  # fmt: skip
"""Files that a program and its answers depend on."""


@dataclass(frozen=True)
class Expectation:
    """What a device must answer.

    Attributes:
        outputs: int8 (n, most classes), the integer reference's with the weights that a device decodes; zeros behind
            the classes of a network.
        labels: int64 (n,).
        before: int64 (n,): the classes that the networks told in float32, before anything was coded.
        networks: uint8 (n,): whose sample it is.
        classes: int64 (networks,): how many each has.
        names: of the tasks.
    """

    outputs: Int8Array
    labels: tasks.IntArray
    before: tasks.IntArray
    networks: cached.AnyArray
    classes: tasks.IntArray
    names: tuple[str, ...] = tasks.TASKS

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge a device's outputs: equal to the integer reference; accuracy of all and of each network.

        Raises:
            WorkloadError: another shape, or a byte that differs.
        """
        must_equal(outputs, self.outputs)
        there = np.arange(outputs.shape[1]) < self.classes[self.networks][:, None]
        chosen = np.where(there, outputs, np.int16(-129)).argmax(1)
        after, before = chosen == self.labels, self.before == self.labels
        scores = [
            Score("accuracy", float(after.mean()), float(before.mean()), trials=len(after)),
            Score("agreement", float(np.mean(chosen == self.before)), 1.0),
        ]
        for number, name in enumerate(self.names):
            own = self.networks == number
            scores.append(
                Score(f"accuracy.{name}", float(after[own].mean()), float(before[own].mean()), trials=int(own.sum()))
            )
        return scores


class Yono:
    """The workload. Variants: ``store=yono|plain|kmeans|int8|copied|loaded|heads``, ``learnt=``, ``words=``,
    ``bits=2|4``, ``drop=``, ``epochs=``, ``tuning=``, ``evaluated=``, separated by commas; with ``size=paper`` also
    ``samples=`` and ``networks=alike|published|own``.
    """

    id: str = "yono"
    title: str = "Three networks by one shared codebook, decoded on the device when they are asked"
    family: str = "many_models"
    systems: tuple[str, ...] = ("S009",)
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = BASELINES
    claims: tuple[Claim, ...] = claims()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train, code, tune, compile and answer on this computer, or read all of it from the cache.

        Raises:
            ConfigError: an unknown variant, no data, or a cache that cannot be written.
        """
        chosen = parse(variant)
        if chosen.networks != "alike" and chosen.store == "heads":
            raise DoesNotFit(f"yono: {chosen.networks} networks share no trunk, so that there is none for store=heads")
        there = tasks.all_tasks() if chosen.size == "ci" else own_tasks.all_tasks(chosen)
        digest = tasks.digest(there)
        entry = cached.obtain(
            cache / "workloads", self.id, _key(chosen, digest), lambda: _produce(chosen, there, cache)
        )
        return _prepared(chosen, entry, digest)


def _produce(variant: Variant, there: tuple[tasks.Task, ...], cache: Path) -> cached.Entry:
    from lab.workloads.many_models.produce import produce

    return produce(variant, there, cache)


def _key(variant: Variant, digest: str) -> str:
    named = {"data": digest, "options": json.dumps(asdict(variant), sort_keys=True)}
    named |= {package: version(package) for package in ("numpy", "torch")}
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    return cached.key(named, [*SOURCES, *compiler, *RUNTIME.rglob("*.[ch]")])


def _prepared(variant: Variant, entry: cached.Entry, digest: str) -> Prepared:
    document, arrays = json.loads(entry.document), entry.arrays
    model = model_from_json(document["model"])
    outputs, samples, networks = (arrays[name] for name in ("outputs", "samples", "networks"))
    source = tasks.SOURCE if variant.size == "ci" else own_tasks.SOURCES[variant.networks]
    expectation = Expectation(
        outputs.astype(np.int8), arrays["labels"].astype(np.int64), arrays["before"].astype(np.int64), networks,
        arrays["classes"].astype(np.int64), tuple(document["tasks"]),
    )  # fmt: skip
    job = Job("switch", samples.tobytes(), len(samples), warmup=0, blobs={"networks": networks.tobytes()})
    return Prepared(
        model=model,
        job=job,
        dataset=Dataset(source, digest, len(samples),
                        f"{variant.evaluated} held-out samples of each, asked in turn: every sample is a switch."),
        reference_outputs=expectation.outputs,
        seed=tasks.SEED,
        parameters={name: str(value) for name, value in asdict(variant).items()},
        check=expectation.check,
        facts=_facts(variant, document, expectation.names),
        figures=_figures(document),
        stream=StreamPlan(
            len(samples), metered_job(samples, networks, document["region_bytes"]), lambda adapted, raw: []
        ),
    )  # fmt: skip


def metered_job(samples: cached.AnyArray, networks: cached.AnyArray, region_bytes: Sequence[int]) -> Job:
    """What the meter sees: the first samples of the networks that a switch moves bytes for.

    Where there are fewer than two of them, a switch is only a pointer that is set, which no meter sees: then it sees
    inferences of the network that the stream leaves ready.

    Args:
        samples, networks: of the stream, in its order.
        region_bytes: RAM that each network is made ready in; 0 where all its weights are read from flash.
    """
    moved = [number for number, size in enumerate(region_bytes) if size]
    if len(moved) > 1:
        places = np.flatnonzero(np.isin(networks, moved))[:METERED]
        blobs = {"networks": networks[places].tobytes()}
        return Job("switch", samples[places].tobytes(), len(places), warmup=0, blobs=blobs)
    few = samples[networks == networks[-1]][:METERED]
    return Job("infer", few.tobytes(), len(few), warmup=0)


def _facts(variant: Variant, document: Mapping[str, list[int]], names: Sequence[str]) -> tuple[str, ...]:
    tuned, region = document["tuned"], document["region_bytes"]
    facts = [f"Stored as {variant.store}; {document['coded_weights']} weights are coded."]
    if variant.in_ram:
        facts.append(f"RAM for weights, by network: {region} bytes.")
    if variant.coded:
        facts.append(f"Trained again, and int8, by network: {tuned}.")
    if variant.in_ram and not all(region):
        pointed = ", ".join(name for name, size in zip(names, region, strict=True) if not size)
        facts.append(
            f"All weights of {pointed} are int8 in flash (training again took every layer): switching there sets a "
            "pointer, which the meter is not asked to see."
        )
    return tuple(facts)


def load_times(size: float) -> Mapping[str, float]:
    """Seconds that a network of so many bytes takes from where else it could come, at least, by name of the figure."""
    sectors, words = -(-size // SECTOR_BYTES), -(-size // 4)
    return {
        "load_time.uart": size * UART_BITS_PER_BYTE / UART_BITS_PER_S,
        "load_time.sd": size * 8 / SD_BITS_PER_S,
        "load_time.reflash": sectors * SECTOR_ERASE_S + words * WORD_PROGRAM_S,
    }


def _figures(document: Mapping[str, list[int]]) -> tuple[Figure, ...]:
    mean = float(np.mean(document["network_bytes"]))
    float32 = float(np.sum(document["float32_bytes"]))
    note = "of the mean network in int8, modelled: bytes at the medium's rate"
    return (
        Figure("stored.float32", float32, "bytes", "weights and biases of all networks in float32"),
        Figure("stored.coded_weights", float(np.sum(document["coded_weights"])), "1", "weights that are coded"),
        *(Figure(name, seconds, "s", note) for name, seconds in load_times(mean).items()),
    )


WORKLOAD = Yono()
