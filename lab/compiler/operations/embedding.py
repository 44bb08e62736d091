"""Embeddings: rows of a table, their gradient, and the update of the rows that were read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from lab.compiler.operations.copy import present
from lab.compiler.program import Operation, Tensor, TrainingState, Update
from lab.compiler.quantized import KernelCall


@dataclass(frozen=True)
class Embedding(Operation):
    """``table[indices]``; an index out of range yields a row of NaN.

    Attributes:
        count: number of indices.
        rows, columns: sizes of the table.
    """

    kind: ClassVar[str] = "embedding"
    count: int
    rows: int
    columns: int

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        table = present(inputs[0]).reshape(self.rows, self.columns)
        indices = present(inputs[1]).reshape(self.count, 1).long()
        known = (indices >= 0) & (indices < self.rows)
        return (torch.where(known, table[indices.clamp(0, self.rows - 1).flatten()], math.nan),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (("count", self.count), ("rows", self.rows), ("columns", self.columns))
        return KernelCall("lab_f32_embedding", (), fields)


@dataclass(frozen=True)
class EmbeddingGradient(Operation):
    """Gradient of :class:`Embedding` with respect to the table; inputs are the gradient and the indices.

    Attributes:
        count, rows, columns: as in :class:`Embedding`.
        ignored: index that is left out; -1 for none.
    """

    kind: ClassVar[str] = "embedding.gradient"
    count: int
    rows: int
    columns: int
    ignored: int = -1

    def run(self, inputs: Sequence[torch.Tensor | None]) -> tuple[torch.Tensor, ...]:
        gradient = present(inputs[0]).reshape(self.count, self.columns)
        indices = present(inputs[1]).reshape(self.count).long()
        kept = (indices >= 0) & (indices < self.rows) & (indices != self.ignored)
        return (torch.zeros(self.rows, self.columns).index_add(0, indices[kept], gradient[kept]),)

    def fields(self) -> tuple[tuple[str, int], ...]:
        """Values of the kernels' descriptors."""
        return (("count", self.count), ("rows", self.rows), ("columns", self.columns), ("ignored", self.ignored))

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        return KernelCall("lab_f32_embedding_gradient", (), self.fields())


@dataclass(frozen=True)
class EmbeddingSgd(Update):
    """``table -= rate · gradient`` for the rows that were read alone; nothing is stored.

    Inputs are the gradient, the indices and the table, which is the output. Weight decay would touch every row: an
    embedding with weight decay is updated from its stored gradient.

    Attributes:
        gradient: the gradient.
        rate_scale: the learning rate of the step is multiplied by this.
    """

    kind: ClassVar[str] = "embedding.sgd"
    gradient: EmbeddingGradient
    rate_scale: float

    def apply(self, inputs: Sequence[torch.Tensor | None], state: TrainingState) -> tuple[torch.Tensor, ...]:
        table = present(inputs[2])
        (gradient,) = self.gradient.run(inputs[:2])
        return (table - self.rate_scale * state.learning_rate * gradient.reshape(table.shape),)

    def call(self, inputs: Sequence[Tensor | None], outputs: Sequence[Tensor]) -> KernelCall:
        fields = (*self.gradient.fields(), ("rate_scale", self.rate_scale))
        return KernelCall("lab_f32_embedding_sgd", (), fields, takes_state=True)
