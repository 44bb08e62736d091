"""Embeddings."""

from __future__ import annotations

import math

from lab.compiler.lowering import Call, Results, lowers
from lab.compiler.operations.embedding import Embedding, EmbeddingGradient


def _indices(call: Call, index: int) -> str:
    tensor = call.plain(index, "indices")
    if call.builder.tensors[tensor].dtype != "int32":
        raise call.refuse("indices that are no integers", "pass int64 or int32 indices")
    return tensor


@lowers("aten.embedding.default")
def lower_embedding(call: Call) -> Results:
    """``embedding(weight, indices, padding_idx, scale_grad_by_freq, sparse)``."""
    rows, columns = call.lowered(0).shape
    count = math.prod(call.lowered(1).shape)
    operation = Embedding(count, rows, columns)
    shape = call.result_shape()
    (made,) = call.emit(operation, [call.plain(0, "weight"), _indices(call, 1)], shape)
    return call.plain_view(made, shape)


@lowers("aten.embedding_dense_backward.default")
def lower_embedding_backward(call: Call) -> Results:
    """``embedding_dense_backward(grad_output, indices, num_weights, padding_idx, scale_grad_by_freq)``."""
    if call.flag(4, "scale_grad_by_freq", False):
        raise call.refuse("scale_grad_by_freq", "leave it out")
    rows, columns = call.result_shape()
    count = math.prod(call.lowered(1).shape)
    operation = EmbeddingGradient(count, rows, columns, int(call.number(3, "padding_idx", -1)))
    (made,) = call.emit(operation, [call.plain(0, "grad_output"), _indices(call, 1)], (rows, columns))
    return call.plain_view(made, (rows, columns))
