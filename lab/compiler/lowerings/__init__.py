"""aten operators to operations of a program, one file per family. Importing this package registers all of them."""

from lab.compiler.lowerings import conv2d, matmul, shape

__all__ = ["conv2d", "matmul", "shape"]
