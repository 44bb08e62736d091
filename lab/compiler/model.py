"""What the compiler yields: C sources, the memory plan and how to feed and read the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.storage import Grid

Int8Array: TypeAlias = npt.NDArray[np.int8]
FloatArray: TypeAlias = npt.NDArray[np.float32]
UPLOAD = "<differences>"
"""Name of the variable that a client of a federation uploads; no module path can be equal to it."""


@dataclass(frozen=True)
class TensorSpec:
    """A tensor at the model's border, NHWC: int8 with ``real = scale · (q − zero_point)``, or float32.

    Attributes:
        shape: shape of one sample without the batch dimension, in NHWC order.
        scale, zero_point: affine quantisation; 1 and 0 where it is not int8.
        dtype: ``int8``, ``float32``, or ``int32`` for indices.
    """

    shape: tuple[int, ...]
    scale: float
    zero_point: int
    dtype: str = "int8"

    @property
    def size(self) -> int:
        """Bytes of one sample."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def quantize(self, real: FloatArray) -> Int8Array:
        """Quantise samples of shape (n, …) in NHWC order; rounds half to even, saturates."""
        scaled = np.rint(real.astype(np.float64) / self.scale) + self.zero_point
        quantised: Int8Array = np.clip(scaled, -128, 127).astype(np.int8)
        return quantised

    def dequantize(self, quantised: Int8Array) -> FloatArray:
        """Real values of quantised samples."""
        return ((quantised.astype(np.float32) - self.zero_point) * np.float32(self.scale)).astype(np.float32)


@dataclass(frozen=True)
class LayerInfo:
    """One layer of the schedule.

    Attributes:
        name: name from the user's module.
        operator: ``conv2d``, ``depthwise_conv2d``, ``linear``, ``avg_pool2d`` …
        macs: multiply-accumulates of one pass.
        weights_bytes: weights, biases and requantisation constants in flash.
        input_shape, output_shape: NHWC, without batch.
    """

    name: str
    operator: str
    macs: int
    weights_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


@dataclass(frozen=True)
class BufferPlan:
    """A buffer of the arena: bytes ``[offset, offset + size)`` from layer ``first`` to layer ``last`` inclusive."""

    name: str
    offset: int
    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Variable:
    """A parameter that is trained on the device, or a tensor of its optimiser.

    Attributes:
        name: PyTorch's name; the optimiser's tensors have ``.momentum``, ``.exp_avg`` … appended.
        dtype: ``float32``, ``int8``, ``uint8`` or ``int32``.
        shape: order in the device's memory.
        permutation: axes of ``shape`` in PyTorch's order.
        torch_shape: PyTorch's shape.
        grid: for int8 weights and their bias, what makes real values of them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    permutation: tuple[int, ...]
    torch_shape: tuple[int, ...]
    grid: Grid | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes on the device."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    @property
    def is_bias(self) -> bool:
        """Whether this is the bias of an int8 layer."""
        return self.grid is not None and bool(self.grid.weight or self.grid.weight_sums)

    def stored(self, raw: Mapping[str, bytes]) -> npt.NDArray[np.generic]:
        """The variable as it lies in memory, out of all variables.

        Raises:
            ValueError: another number of bytes.
        """
        data = raw[self.name]
        if len(data) != self.size_bytes:
            raise ValueError(f"variable '{self.name}' has {self.size_bytes} bytes, found {len(data)}")
        return np.frombuffer(data, dtype=np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


@dataclass(frozen=True)
class TrainingStep:
    """One step of the training schedule.

    Attributes:
        name: name from the user's module, with what is computed where that is not its forward.
        operator: ``conv2d``, ``conv2d.weight_gradient`` …
        phase: ``forward``, ``backward`` or ``update``.
        macs: multiply-accumulates.
        arena_bytes: bytes of the arena the step reads and writes.
        kept_bytes: bytes of its outputs that forward keeps for backward.
        flop: floating-point operations (:meth:`lab.compiler.program.Operation.flop`).
        traffic_bytes: what it reads and writes at the least: all its tensors once, wherever they lie, those that it
            changes once each way.
    """

    name: str
    operator: str
    phase: str
    macs: int
    arena_bytes: int
    kept_bytes: int
    flop: int = 0
    traffic_bytes: int = 0


@dataclass(frozen=True)
class CompiledTraining:
    """How a model trains on the device.

    Attributes:
        steps: the schedule: forward, backward, update.
        buffers: the arena plan of a training step.
        arena_bytes, lower_bound_bytes: its size, and the most bytes live at once.
        method: how the plan was found.
        variables: what training changes, in RAM.
        target_dtype, target_shape: labels (``int32``) or regression targets (``float32``) of one step.
        classes: labels are below this; 0 for regression.
        batch: samples of one step.
        optimizer: in words, for provenance.
        precision: ``float32`` or ``int8``.
    """

    steps: tuple[TrainingStep, ...]
    buffers: tuple[BufferPlan, ...]
    arena_bytes: int
    lower_bound_bytes: int
    method: str
    variables: tuple[Variable, ...]
    target_dtype: str
    target_shape: tuple[int, ...]
    classes: int
    batch: int
    optimizer: str
    precision: str

    @property
    def variables_bytes(self) -> int:
        """Bytes of RAM that outlive a step: trained parameters and optimiser state."""
        return sum(variable.size_bytes for variable in self.variables)

    @property
    def learns_forward(self) -> bool:
        """Whether a step is forward passes alone, in which parameters change (``lab_training_t.learn``)."""
        return all(step.phase == "forward" for step in self.steps)

    def to_torch(self, raw: Mapping[str, bytes]) -> dict[str, FloatArray]:
        """All variables, from their bytes on the device, as PyTorch holds them: real values in PyTorch's order.

        Raises:
            ValueError: a variable of another size.
            KeyError: one is missing.
        """
        known = {variable.name: variable for variable in self.variables}
        found: dict[str, FloatArray] = {}
        for variable in self.variables:
            stored, grid = variable.stored(raw), variable.grid
            if grid is None:
                real = stored.transpose(variable.permutation)
            elif variable.is_bias:
                real = grid.real_bias(stored, known[grid.weight].stored(raw) if grid.weight else None)
            else:
                # Outputs first and inputs last; PyTorch has the inputs second.
                real = grid.real_weight(stored)
                real = real if grid.storage.depthwise else np.moveaxis(real, -1, 1)
            found[variable.name] = np.ascontiguousarray(real, dtype=np.float32).reshape(variable.torch_shape)
        return found

    def macs(self, phase: str) -> int:
        """Multiply-accumulates of a phase."""
        return sum(step.macs for step in self.steps if step.phase == phase)


@dataclass(frozen=True)
class CompiledModel:
    """A model compiled to static C.

    Attributes:
        name: C identifier of the model.
        sources: file name to text; ``model.c`` and ``model.h`` are always there.
        input, output: the tensors at the border.
        layers: the schedule.
        buffers: the arena plan.
        arena_bytes: size of the planned arena.
        lower_bound_bytes: most bytes live at once.
        digest: SHA-256 of the sources, hex.
        training: how it trains; ``None`` for inference only.
        binaries: file name to content of what ``model.c`` includes (:mod:`lab.compiler.binary_constants`).
    """

    name: str
    sources: Mapping[str, str] = field(repr=False)
    input: TensorSpec
    output: TensorSpec
    layers: tuple[LayerInfo, ...]
    buffers: tuple[BufferPlan, ...]
    arena_bytes: int
    lower_bound_bytes: int
    digest: str
    training: CompiledTraining | None = None
    binaries: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    # For documents of the cache: bytes are no text.
    __pydantic_config__: ClassVar[Mapping[str, str]] = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}

    @property
    def weights_bytes(self) -> int:
        """Bytes of constants the model puts in flash."""
        return sum(layer.weights_bytes for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference."""
        return sum(layer.macs for layer in self.layers)
