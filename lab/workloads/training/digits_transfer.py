"""Digits after a quarter turn: a network that knows upright digits is trained on the device to read turned ones.

The network is DigitsMB (two-thirds of a million to nine million multiply-accumulates, by the size of the image), one
image a step, as in Lin et al. 2022, "On-Device Training Under 256KB Memory": int8 weights with quantisation-aware
scaling, biases of the last six layers, half of the input channels of two expansions, and the classifier. Full, last
layer and biases alone are the baselines. Everything the device trains is computed there; the host trains the same C
from the same bits and the same network in PyTorch's float32, for comparison.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

import lab.compiler
from lab import progress
from lab.compiler.model import CompiledModel, CompiledTraining
from lab.errors import WorkloadError
from lab.events import Job
from lab.runtime_files import RUNTIME
from lab.training import training_job
from lab.workloads import cache as cached
from lab.workloads.base import (
    EVERY_CLASS,
    Claim,
    Dataset,
    DeviceClass,
    Figure,
    Int8Array,
    Prepared,
    Score,
    TorchProgram,
    TrainingPlan,
)
from lab.workloads.classification import model_from_json, model_to_json
from lab.workloads.data import digits
from lab.workloads.options import Allowed, one_of, read, within
from lab.workloads.training import autograd_program
from lab.workloads.training.autograd_program import Steps
from lab.workloads.training.turned_digits import IMAGES, PRETRAINING, SEED, SOURCES, Data, load, pretrained

if TYPE_CHECKING:
    from torch import nn

    from lab.compiler.update_schemes import UpdateScheme

FloatArray: TypeAlias = npt.NDArray[np.float32]
IntArray: TypeAlias = npt.NDArray[np.int64]
Update: TypeAlias = Literal["sparse", "full", "last", "bias"]
Precision: TypeAlias = Literal["int8", "float32"]

MAX_LOSS_ERROR = 0.02
MAX_UPDATE_ERROR = 0.25
"""How far a device may be from the host's build of the same C: in the median of the losses, and in the distance of the
trained variables, of the way the host's have come. Additions have the same order, but a core with fused multiply-add
rounds once where others round twice, such a bit can tip a stochastic rounding, and the next step starts from there."""


@dataclass(frozen=True)
class Variant:
    """What is trained, and on what.

    Attributes:
        image: pixels along a side.
        update: which parameters change.
        precision: ``int8``, or ``float32`` throughout.
        samples: images trained on in each epoch.
        epochs: passes over them.
        rate: learning rate.
        evaluated: held-out images that are read afterwards.
    """

    image: int = 32
    update: Update = "sparse"
    precision: Precision = "int8"
    samples: int = 400
    epochs: int = 1
    rate: float = 0.02
    evaluated: int = 200


ALLOWED: tuple[Allowed, ...] = (
    one_of("image", IMAGES),
    one_of("update", get_args(Update)),
    one_of("precision", get_args(Precision)),
    within("samples", 1, 1400),
    within("epochs", 1, math.inf, "at least 1"),
    within("rate", math.nextafter(0, 1), math.nextafter(10, 0), "above 0 and below 10"),
    within("evaluated", 1, 350),
)


def parse(text: str) -> Variant:
    """A variant from ``image=48,update=full``; what is not named keeps its default.

    Raises:
        ConfigError: an unknown name or a value that is not allowed.
    """
    return read("digits-transfer", Variant(), ALLOWED, text)


def scheme_of(update: Update) -> UpdateScheme:
    """Which layers of DigitsMB change. Convolutions are numbered from 0, the classifier is 13."""
    from lab.compiler.update_schemes import UpdateScheme

    schemes = {
        "sparse": UpdateScheme({7: 0.5, 10: 0.5}, biases=6),
        "full": UpdateScheme(dict.fromkeys(range(13), 1.0), biases=13),
        "last": UpdateScheme(),
        "bias": UpdateScheme(biases=13),
    }
    return schemes[update]


@dataclass(frozen=True)
class Expectation:
    """What the device must come to.

    Attributes:
        labels: of the evaluated images.
        losses: of each step, float32, from the host's build.
        variables: real values after training by name, from the host's build.
        initial: the same before.
        training: makes real values of a device's bytes.
        outputs: logits of the evaluated images after training, as the host's build yields them.
        untrained_accuracy: on the evaluated images, before training on the device.
        float_accuracy: PyTorch's, trained in the same way in float32.
    """

    labels: IntArray
    losses: FloatArray
    variables: Mapping[str, FloatArray]
    initial: Mapping[str, FloatArray]
    training: CompiledTraining
    outputs: Int8Array
    untrained_accuracy: float
    float_accuracy: float

    def check_training(self, losses: FloatArray, variables: Mapping[str, bytes]) -> list[Score]:
        """Judge losses and variables.

        Raises:
            WorkloadError: not those of the host's build, within what another rounding may do.
        """
        error = float(np.median(np.abs(losses - self.losses)))
        if error > MAX_LOSS_ERROR:
            raise WorkloadError(
                f"the losses differ from the host's by {error:.2g} in the median; at most {MAX_LOSS_ERROR} is allowed"
            )
        found = self.training.to_torch(variables)
        come = math.sqrt(sum(_square(self.variables[name], self.initial[name]) for name in self.variables))
        off = math.sqrt(sum(_square(found[name], self.variables[name]) for name in self.variables)) / come
        if off > MAX_UPDATE_ERROR:
            raise WorkloadError(
                f"the trained variables are off the host's by {off:.2g} of the way these have come; at most "
                f"{MAX_UPDATE_ERROR} is allowed"
            )
        tail = max(1, len(losses) // 10)
        return [
            Score("loss.first", float(losses[:tail].mean()), float(self.losses[:tail].mean())),
            Score("loss.last", float(losses[-tail:].mean()), float(self.losses[-tail:].mean())),
            Score("update_error", off, 0.0),
        ]

    def check(self, outputs: Int8Array) -> list[Score]:
        """Judge the answers after training."""
        accuracy = _accuracy(outputs, self.labels)
        if accuracy <= self.untrained_accuracy:
            raise WorkloadError(
                f"accuracy after training is {accuracy:.2%}; before it was {self.untrained_accuracy:.2%}: nothing was "
                "learned"
            )
        return [
            Score("accuracy", accuracy, self.float_accuracy),
            Score("accuracy.untrained", self.untrained_accuracy, self.untrained_accuracy),
        ]


def _square(first: FloatArray, second: FloatArray) -> float:
    return float(np.sum((first.astype(np.float64) - second.astype(np.float64)) ** 2))


def _accuracy(outputs: Int8Array, labels: IntArray) -> float:
    logits = np.ascontiguousarray(outputs).view(np.float32)
    return float(np.mean(logits.argmax(axis=1) == labels))


class DigitsTransfer:
    """The workload. Variants: ``image=16|32|48|64``, ``update=sparse|full|last|bias``, ``precision=int8|float32``,
    ``samples=``, ``epochs=``, ``rate=``, ``evaluated=``, separated by commas.
    """

    id: str = "digits-transfer"
    title: str = "Training on the device: DigitsMB learns turned digits, int8 sparse update"
    family: str = "training"
    systems: tuple[str, ...] = ()
    classes: tuple[DeviceClass, ...] = EVERY_CLASS
    baselines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    missing: str = ""

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        """Train the network on upright digits, compile it, and compute what the device must come to; cached.

        Raises:
            ConfigError: unknown variant, or scikit-learn's digits cannot be read.
        """
        chosen = parse(variant)
        digest = digits.digest(digits.find())
        entry = cached.obtain(cache / "workloads", self.id, _key(chosen, digest), lambda: _produce(chosen, cache))
        document = json.loads(entry.document)
        model = model_from_json(document["model"])
        arrays = entry.arrays
        training = _training(model)
        expectation = Expectation(
            labels=arrays["labels"].astype(np.int64),
            losses=arrays["losses"].astype(np.float32),
            variables={one.name: arrays[f"trained_{n}"].astype(np.float32) for n, one in enumerate(training.variables)},
            initial={one.name: arrays[f"initial_{n}"].astype(np.float32) for n, one in enumerate(training.variables)},
            training=training,
            outputs=arrays["outputs"].astype(np.int8),
            untrained_accuracy=document["untrained_accuracy"],
            float_accuracy=document["float_accuracy"],
        )
        inputs = arrays["inputs"]
        return Prepared(
            model=model,
            job=Job("infer", inputs.tobytes(), len(inputs)),
            dataset=Dataset(digits.SOURCE, digest, len(inputs), "Turned by 90 degrees, with noise."),
            reference_outputs=expectation.outputs,
            seed=SEED,
            parameters={name: str(value) for name, value in asdict(chosen).items()},
            check=expectation.check,
            facts=_facts(chosen, expectation, model),
            figures=(
                Figure("arena", training.arena_bytes, "bytes", "planned arena of a training step"),
                Figure("arena.lower_bound", training.lower_bound_bytes, "bytes", "largest set of tensors live at once"),
            ),
            training=TrainingPlan(_job(chosen, arrays), expectation.check_training),
            program=lambda: _program(chosen, digest, cache),
        )


def _job(variant: Variant, arrays: Mapping[str, cached.AnyArray]) -> Job:
    samples = arrays["samples"]
    typed = samples.astype(np.float32) if variant.precision == "float32" else samples.astype(np.int8)
    return training_job(
        typed,
        arrays["targets"].astype(np.int32),
        epochs=variant.epochs,
        learning_rate=variant.rate,
        seed=SEED,
    )


def _training(model: CompiledModel) -> CompiledTraining:
    if model.training is None:
        raise ValueError("the model is compiled for inference only")
    return model.training


def _facts(variant: Variant, expected: Expectation, model: CompiledModel) -> tuple[str, ...]:
    training = _training(model)
    return (
        f"DigitsMB on {variant.image}x{variant.image} pixels, {variant.precision}, update: {variant.update}; "
        f"{variant.samples * variant.epochs} steps of one image, learning rate {variant.rate:g}.",
        f"Arena {training.arena_bytes} bytes (lower bound {training.lower_bound_bytes}), trained variables "
        f"{training.variables_bytes} bytes.",
        f"Accuracy on turned digits before training: {expected.untrained_accuracy:.2%}; PyTorch in float32, trained in "
        f"the same way: {expected.float_accuracy:.2%}.",
        "Losses, trained variables and outputs are compared with the same C on the host, started from the same bits.",
    )


def _key(variant: Variant, digest: str) -> str:
    parts = {
        "data": digest,
        "variant": json.dumps(asdict(variant), sort_keys=True),
        "pretraining": json.dumps(asdict(PRETRAINING), sort_keys=True),
        **{package: version(package) for package in ("numpy", "torch")},
    }
    compiler = Path(lab.compiler.__file__).parent.rglob("*.py")
    own = (Path(__file__), Path(autograd_program.__file__))
    return cached.key(parts, [*own, *SOURCES, *compiler, *RUNTIME.rglob("*.[ch]")])


# ---- what is cached -----------------------------------------------------------------------------------------------


def _produce(variant: Variant, cache: Path) -> cached.Entry:
    from lab.compiler.host import HostTraining
    from lab.workloads.networks import logits

    data = load(variant.image)
    network = pretrained(variant.image, data, cache)
    chosen = data.chosen(variant.samples)
    asked = data.held_out[: variant.evaluated]
    with progress.step("digits-transfer: compiling", quiet_below_s=2.0):
        model = _compiled(variant, network, data)
    physical = data.turned.permute(0, 2, 3, 1).contiguous().numpy()
    inputs = model.input.quantize(physical) if variant.precision == "int8" else physical
    labels = data.labels.numpy()
    targets = labels[chosen].astype(np.int32)
    with progress.step("digits-transfer: training on the host", quiet_below_s=2.0), tempfile.TemporaryDirectory() as at:
        host = HostTraining(model, Path(at))
        host.state.random = SEED
        initial = host.variables()
        losses = [
            host.step(inputs[index : index + 1], targets[number : number + 1], variant.rate)
            for _ in range(variant.epochs)
            for number, index in enumerate(chosen)
        ]
        outputs = host.run(inputs[asked]).reshape(len(asked), -1).view(np.int8)
        trained_values = host.variables()
    before = logits(network, data.turned[asked]).argmax(1) == data.labels[asked]
    with progress.step("digits-transfer: training in PyTorch", quiet_below_s=2.0):
        trained = _in_pytorch(variant, network, data, chosen)
        after = logits(trained, data.turned[asked]).argmax(1) == data.labels[asked]
    document = {
        "model": model_to_json(model),
        "untrained_accuracy": before.float().mean().item(),
        "float_accuracy": after.float().mean().item(),
    }
    arrays: dict[str, cached.AnyArray] = {
        "inputs": inputs[asked].reshape(len(asked), -1),
        "labels": labels[asked],
        "samples": inputs[chosen].reshape(len(chosen), -1),
        "targets": targets,
        "losses": np.array(losses, np.float32),
        "outputs": outputs,
    }
    for n, variable in enumerate(_training(model).variables):
        arrays |= {f"initial_{n}": initial[variable.name], f"trained_{n}": trained_values[variable.name]}
    return cached.Entry(json.dumps(document), arrays)


def _program(variant: Variant, digest: str, cache: Path) -> TorchProgram:
    """For PyTorch on the device: whole tensors of the chosen layers change, since it knows no part of a channel."""
    entry = cached.obtain(
        cache / "workloads", "digits-transfer-torch", _key(variant, digest), lambda: _produce_program(variant, cache)
    )
    return autograd_program.program(entry, variant.epochs, variant.rate, SEED)


def _produce_program(variant: Variant, cache: Path) -> cached.Entry:
    from lab.compiler.layer_costs import layer_list
    from lab.compiler.update_schemes import selection

    data = load(variant.image)
    network = pretrained(variant.image, data, cache)
    names = selection(scheme_of(variant.update), layer_list(network, data.turned[:1]))
    steps = Steps(data.chosen(variant.samples), data.held_out[: variant.evaluated], variant.epochs, variant.rate, SEED)
    return autograd_program.produce("digits-transfer", network, names, data.turned, data.labels, steps)


def _compiled(variant: Variant, network: nn.Module, data: Data) -> CompiledModel:
    import torch

    from lab.compiler.layer_costs import layer_list
    from lab.compiler.update_schemes import selection

    calibration = data.calibration()
    example = data.turned[:1]
    return lab.compiler.compile(
        network,
        example,
        loss=torch.nn.CrossEntropyLoss(),
        train=selection(scheme_of(variant.update), layer_list(network, example)),
        precision=variant.precision,
        calibration=calibration if variant.precision == "int8" else None,
        name="digits_transfer",
    )


def _in_pytorch(variant: Variant, network: nn.Module, data: Data, chosen: IntArray) -> nn.Module:
    """The same steps in float32 by ``torch.optim.SGD``."""
    import copy

    import torch

    from lab.compiler.layer_costs import layer_list
    from lab.compiler.update_schemes import selection
    from lab.workloads.fitting import seeded

    trained = copy.deepcopy(network)
    names = selection(scheme_of(variant.update), layer_list(network, data.turned[:1]))
    parameters = dict(trained.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in names)
    optimizer = torch.optim.SGD([parameters[name] for name in names], lr=variant.rate)
    with seeded(SEED):
        for _ in range(variant.epochs):
            for index in chosen:
                optimizer.zero_grad()
                output = trained(data.turned[index : index + 1])
                torch.nn.functional.cross_entropy(output, data.labels[index : index + 1]).backward()  # type: ignore[no-untyped-call]
                for name, channels in names.items():
                    gradient = parameters[name].grad
                    if channels is not None and gradient is not None and isinstance(channels.inputs, float):
                        gradient[:, int(gradient.shape[1] * channels.inputs) :] = 0
                optimizer.step()
    return trained.eval()


WORKLOAD = DigitsTransfer()
