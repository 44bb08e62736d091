"""The program: steps over dense tensors, what passes rewrite, the planner places and the emitter prints.

A step calls one kernel of ``firmware/runtime``. Tensors are physical: dense, row-major in the order of ``shape``; a
feature map is ``(N, H, W, C)``, a convolution's weight ``(O, KH, KW, I)``, a depthwise one ``(KH, KW, C)``, a linear
layer's ``(O, I)``. Parameters and optimiser state are the only tensors written more than once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lab.compiler.graph import Shape, Source
from lab.compiler.quantized import Affine, KernelCall
from lab.compiler.storage import Grid

if TYPE_CHECKING:
    import torch

DType: TypeAlias = Literal["float32", "int8", "uint8", "int32", "bits"]
Kind: TypeAlias = Literal["input", "target", "activation", "constant", "parameter", "state"]
Phase: TypeAlias = Literal["forward", "backward", "update"]
Turn: TypeAlias = tuple[int, int]
Value: TypeAlias = npt.NDArray[np.generic]

ITEM_BYTES: Mapping[str, int] = {"float32": 4, "int8": 1, "uint8": 1, "int32": 4}


@dataclass(frozen=True)
class Tensor:
    """A dense tensor.

    Attributes:
        name: unique in the program.
        shape: physical order.
        dtype: element type; ``bits`` packs eight elements into a byte, the first in the lowest bit.
        kind: ``activation`` lives in the arena; ``input`` and ``target`` are the caller's; ``constant`` lies in flash;
            ``parameter`` is trained and ``state`` belongs to its optimiser: both lie in RAM and outlive a step.
        value: initial value of constants, parameters and state.
        affine: quantisation of int8 activations.
        permutation: for parameters, the axes of ``shape`` in PyTorch's order: ``value.transpose(permutation)``, with
            ``torch_shape`` after it, is what PyTorch holds.
        torch_shape: PyTorch's shape of a parameter.
        grid: for int8 weights and their bias, what makes real values of them.
    """

    name: str
    shape: Shape
    dtype: DType = "float32"
    kind: Kind = "activation"
    value: Value | None = field(default=None, repr=False, compare=False)
    affine: Affine | None = None
    permutation: tuple[int, ...] = ()
    torch_shape: Shape = ()
    grid: Grid | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def size_bytes(self) -> int:
        """Bytes in memory."""
        return -(-self.elements // 8) if self.dtype == "bits" else self.elements * ITEM_BYTES[self.dtype]



class Operation(ABC):
    """What a step computes: a frozen dataclass of attributes, one kernel.

    Attributes:
        kind: short noun for what it computes.
        in_place: inputs whose memory the first output may take, where they die here and have its size.
        extends: the first output is that input's memory, written further.
        alias: the output *is* the first input's memory; no code is emitted.
    """

    kind: ClassVar[str]
    in_place: ClassVar[tuple[int, ...]] = ()
    extends: ClassVar[int | None] = None
    alias: ClassVar[bool] = False

    @property
    def label(self) -> str:
        """Name in layer tables."""
        return self.kind

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        """Reference on physical tensors; ``None`` stands for an absent optional input. One tensor per output."""

    @abstractmethod
    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        """The kernel: pointers to inputs, then to outputs that are no inputs, in order, then scratch and state."""

    def macs(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        """Multiply-accumulates of one pass."""
        return 0

    def flop(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        """Floating-point operations of one pass: two for each multiply-accumulate, and those of an update by plain SGD.

        Sums, activations, losses and masks count none, as in the figures of papers.
        """
        return 2 * self.macs(inputs, outputs)

    def scratch_bytes(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> int:
        """Arena bytes the kernel needs besides its tensors."""
        return 0


@dataclass
class TrainingState:
    """What changes from step to step besides the variables; ``lab_training_state_t``.

    Attributes:
        learning_rate: of this step.
        step: steps begun, 1 in the first one.
        random: xorshift32 state for stochastic rounding, never 0.
    """

    learning_rate: float
    step: int = 1
    random: int = 1


class Update(Operation):
    """An operation that writes parameters or optimiser state, which are inputs and outputs of its step."""

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        raise TypeError("an update needs the state of the training step: use apply")

    @abstractmethod
    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        """New values of the outputs. ``state.random`` advances as it does on the device."""


@dataclass(frozen=True)
class Step:
    """One operation on named tensors.

    Attributes:
        name: unique; the user's module path, with what is computed where that is not the module's own forward.
        operation: what is computed.
        inputs: tensors read; an empty string stands for an absent optional one.
        outputs: tensors written; a name that is also an input is written in place (parameters and state only).
        phase: region the step belongs to.
        source: place in the user's module.
        turn: the first and the last step of training, counted from 1, in which it is taken; in all of them where None.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    phase: Phase
    source: Source
    turn: Turn | None = None


@dataclass(frozen=True)
class Program:
    """Steps in execution order.

    Attributes:
        tensors: every tensor by name.
        steps: each reads what was written before it.
        output: the model's output (logits).
        loss: the scalar loss; empty for inference only.
        gradients: trained parameter to its gradient, in the parameter's own order; what the updates consume.
        classes: labels are below this; 0 where the target is no label.
    """

    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    output: str
    loss: str = ""
    gradients: Mapping[str, str] = field(default_factory=dict)
    classes: int = 0

    def inputs_of(self, step: Step) -> list[Tensor | None]:
        """The tensors a step reads."""
        return [self.tensors[name] if name else None for name in step.inputs]

    def outputs_of(self, step: Step) -> list[Tensor]:
        """The tensors a step writes."""
        return [self.tensors[name] for name in step.outputs]

    @property
    def learns_forward(self) -> bool:
        """Whether a step of training is forward passes alone, in which parameters change."""
        return any(isinstance(step.operation, Update) and step.phase == "forward" for step in self.steps)

    def of_kind(self, *kinds: Kind) -> tuple[Tensor, ...]:
        """Tensors of the given kinds, in the order they were made."""
        return tuple(tensor for tensor in self.tensors.values() if tensor.kind in kinds)

    def consumers(self, name: str) -> list[Step]:
        """Steps that read a tensor."""
        return [step for step in self.steps if name in step.inputs]

    def producer(self, name: str) -> Step | None:
        """The first step that writes a tensor; ``None`` for inputs, constants, parameters and state."""
        return next((step for step in self.steps if name in step.outputs), None)

    def with_steps(self, steps: Sequence[Step], *more: Tensor) -> Program:
        """The program with other steps; tensors that no step names any more are dropped, ``more`` are added."""
        tensors = {**self.tensors, **{tensor.name: tensor for tensor in more}}
        used = {name for step in steps for name in (*step.inputs, *step.outputs)}
        used |= {self.output, self.loss, *self.gradients.values()}
        kept = {
            name: tensor for name, tensor in tensors.items() if name in used or tensor.kind in ("input", "target")
        }
        return replace(self, tensors=kept, steps=tuple(steps))

    def run(
        self,
        sample: torch.Tensor,
        target: torch.Tensor | None,
        memory: dict[str, torch.Tensor],
        state: TrainingState | None = None,
        observe: Callable[[str, torch.Tensor], None] | None = None,
    ) -> dict[str, torch.Tensor]:
        """Run every step with the references.

        Args:
            sample: the input, in physical order.
            target: labels or regression targets; ``None`` for inference.
            memory: parameters and optimiser state by name; updated.
            state: of this training step; ``None`` leaves out the updates.
            observe: told every tensor that is computed.

        Returns:
            all tensors by name.
        """
        import torch

        values: dict[str, torch.Tensor] = {}
        for tensor in self.tensors.values():
            if tensor.kind == "constant" and tensor.value is not None:
                values[tensor.name] = torch.from_numpy(tensor.value)
        values |= memory
        for tensor in self.of_kind("input"):
            values[tensor.name] = sample
        if target is not None:
            for tensor in self.of_kind("target"):
                values[tensor.name] = target
        for step in self.steps:
            if step.turn and state is not None and not step.turn[0] <= state.step <= step.turn[1]:
                continue
            inputs = [values[name] if name else None for name in step.inputs]
            if isinstance(step.operation, Update):
                if state is None:
                    continue
                results = step.operation.apply(inputs, state)
            else:
                results = step.operation.run(inputs)
            for name, result in zip(step.outputs, results, strict=True):
                values[name] = result
                if name in memory:
                    memory[name] = result
                if observe is not None:
                    observe(name, result)
        return values

    def initial_memory(self) -> dict[str, torch.Tensor]:
        """Parameters and optimiser state before the first step."""
        import torch

        return {
            tensor.name: torch.from_numpy(np.array(tensor.value))
            for tensor in self.of_kind("parameter", "state")
        }
