"""aten operators to operations of a program, one file per family. Importing this package registers all of them."""

from lab.compiler.lowerings import (
    conv2d,
    elementwise,
    embedding,
    leave,
    loss,
    matmul,
    normalisation,
    pool,
    reduce,
    shape,
    softmax,
    unary,
)

__all__ = [
    "conv2d",
    "elementwise",
    "embedding",
    "leave",
    "loss",
    "matmul",
    "normalisation",
    "pool",
    "reduce",
    "shape",
    "softmax",
    "unary",
]
