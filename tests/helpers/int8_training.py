"""Training in int8 on the host, step by step beside the integer reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from lab.compiler.graph import to_nhwc
from lab.compiler.host import TRAP_UNDEFINED, HostTraining
from lab.compiler.operations.optimizer import Sgd
from lab.compiler.program import Program, TrainingState
from lab.compiler.training import Selection, TrainingModel, compile_training

FLAGS = ("-O1", *TRAP_UNDEFINED)
CROSS_ENTROPY = nn.CrossEntropyLoss()
Integers = npt.NDArray[np.int64]


def settled(module: nn.Module, data: torch.Tensor) -> nn.Module:
    """The module in evaluation mode, with batch norm statistics of the data."""
    module.train()
    with torch.no_grad():
        module(data)
    return module.eval()


def everything(name: str, parameter: nn.Parameter) -> bool:
    """Selects every parameter."""
    return True


def compile_int8(module: nn.Module, data: torch.Tensor, train: Selection = everything) -> TrainingModel:
    """Compile for int8 training, calibrated with the data."""
    return compile_training(
        module, data[:1], loss=CROSS_ENTROPY, train=train, optimizer=Sgd(), precision="int8", calibration=data
    )


def memory_of(program: Program, raw: dict[str, bytes]) -> dict[str, torch.Tensor]:
    """Variables as they lie in memory, as tensors."""
    made = {}
    for tensor in program.of_kind("parameter", "state"):
        array = np.frombuffer(raw[tensor.name], dtype=np.dtype(tensor.dtype)).reshape(tensor.shape)
        made[tensor.name] = torch.from_numpy(array.copy())
    return made


def plain_values(program: Program, memory: dict[str, torch.Tensor]) -> dict[str, Integers]:
    """int8 weights and int32 biases as numbers of the layer, without packing and folding."""
    plain: dict[str, Integers] = {}
    for tensor in program.of_kind("parameter"):
        grid, stored = tensor.grid, memory[tensor.name].numpy()
        if grid is None:
            continue
        owner = next(step for step in program.steps if step.phase == "forward" and tensor.name in step.inputs)
        if owner.inputs[1] == tensor.name:
            plain[tensor.name] = grid.storage.load(stored).astype(np.int64)
            continue
        weight = memory.get(owner.inputs[1])
        frozen = program.tensors[owner.inputs[1]].value
        loaded = grid.storage.load(weight.numpy() if weight is not None else np.asarray(frozen))
        plain[tensor.name] = grid.storage.unfold(loaded, stored.reshape(-1)).astype(np.int64)
    return plain


@dataclass(frozen=True)
class Deviation:
    """How far C and the integer reference are apart after some steps.

    Attributes:
        weights: int8 weights that differ.
        bias_steps: largest difference of a bias, in steps of its grid.
        floats: largest difference of a float32 variable.
        moved: int8 weights that differ from where they began.
        losses: loss of every step in C.
        reference_losses: the same, of the reference.
    """

    weights: int
    bias_steps: int
    floats: float
    moved: int
    losses: tuple[float, ...]
    reference_losses: tuple[float, ...]


def train_beside_reference(
    model: TrainingModel, folder: Path, samples: torch.Tensor, labels: Sequence[int], learning_rate: float
) -> Deviation:
    """Train in C and by :meth:`Program.run`, one step per sample."""
    program = model.program
    host = HostTraining(model.compiled, folder, flags=FLAGS)
    memory, state = program.initial_memory(), TrainingState(learning_rate, 0, 1)
    start = plain_values(program, memory)
    quantized = model.compiled.input.quantize(to_nhwc(samples).numpy())
    losses, reference_losses = [], []
    for number, label in enumerate(labels):
        sample, target = quantized[number : number + 1], np.array([label], dtype=np.int32)
        state.step += 1
        values = program.run(torch.from_numpy(sample), torch.from_numpy(target), memory, state)
        reference_losses.append(float(values[program.loss]))
        losses.append(host.step(sample, target, learning_rate))
    if host.state.random != state.random:
        raise AssertionError("C and reference drew another number of random keys")
    found = memory_of(program, host.raw_variables())
    ours, expected = plain_values(program, found), plain_values(program, memory)
    weights = [name for name in expected if expected[name].ndim > 1]
    biases = [name for name in expected if expected[name].ndim == 1]
    floats = [name for name in memory if memory[name].dtype == torch.float32]
    return Deviation(
        weights=sum(int((ours[name] != expected[name]).sum()) for name in weights),
        bias_steps=max((int(np.abs(ours[name] - expected[name]).max()) for name in biases), default=0),
        floats=max((float((found[name] - memory[name]).abs().max()) for name in floats), default=0.0),
        moved=sum(int((expected[name] != start[name]).sum()) for name in weights),
        losses=tuple(losses),
        reference_losses=tuple(reference_losses),
    )
