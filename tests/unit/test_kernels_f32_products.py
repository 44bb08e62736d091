"""fp32 matrix products of training against PyTorch in float64, and bit for bit in the documented order."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from helpers.convolutions import UNIT, normal
from helpers.training_kernels import Field, Float, Kernels, State
from hypothesis import given, settings
from hypothesis import strategies as st

EXAMPLES = settings(max_examples=100, deadline=None)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(tmp_path_factory.mktemp("kernels"))


@dataclass(frozen=True)
class Product:
    """Sizes, and whether the factors lie transposed."""

    batch: int
    rows: int
    columns: int
    depth: int
    transpose_a: bool
    transpose_b: bool
    seed: int

    def factors(self) -> tuple[Float, Float]:
        """a (batch, rows, depth) and b (batch, depth, columns), as mathematics has them."""
        generator = np.random.default_rng(self.seed)
        return normal(generator, self.batch, self.rows, self.depth), normal(
            generator, self.batch, self.depth, self.columns
        )

    def stored(self) -> tuple[Float, Float]:
        """As the kernel takes them."""
        a, b = self.factors()
        return (
            np.ascontiguousarray(a.swapaxes(1, 2)) if self.transpose_a else a,
            np.ascontiguousarray(b.swapaxes(1, 2)) if self.transpose_b else b,
        )

    def fields(self) -> dict[str, Field]:
        """Fields that both kernels have."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "depth": self.depth,
            "transpose_a": int(self.transpose_a),
            "transpose_b": int(self.transpose_b),
        }

    def in_order(self) -> Float:
        """Over depth from first to last, one rounded product at a time."""
        a, b = self.factors()
        total = np.zeros((self.batch, self.rows, self.columns), np.float32)
        for k in range(self.depth):
            total = total + a[:, :, k, None] * b[:, None, k]
        return total

    def bound(self) -> np.ndarray:
        """What a float32 sum of `depth` products and three more operations can be off (Higham 2002, section 3.1)."""
        a, b = (np.abs(factor).astype(np.float64) for factor in self.factors())
        bound: np.ndarray = 1.01 * (self.depth + 3) * UNIT * (a @ b)
        return bound


def products(batches: int = 3) -> st.SearchStrategy[Product]:
    """Single rows, single columns and depths of one come often: they have loops of their own."""
    sizes = st.one_of(st.just(1), st.integers(1, 9), st.integers(1, 40))
    return st.builds(
        Product, st.integers(1, batches), sizes, sizes, sizes, st.booleans(), st.booleans(), st.integers(0, 2**31)
    )


@EXAMPLES
@given(case=products(), has_bias=st.booleans(), limits=st.sampled_from([(-math.inf, math.inf), (0.0, 6.0)]))
def test_products(kernels: Kernels, case: Product, has_bias: bool, limits: tuple[float, float]) -> None:
    bias = normal(np.random.default_rng(case.seed + 1), case.columns) if has_bias else None
    output = np.full((case.batch, case.rows, case.columns), np.nan, np.float32)
    fields: dict[str, Field] = {**case.fields(), "batch": case.batch, "minimum": limits[0], "maximum": limits[1]}
    kernels.call("lab_f32_matmul", fields, *case.stored(), bias, output)
    a, b = (torch.tensor(factor, dtype=torch.float64) for factor in case.factors())
    addend = np.zeros(case.columns) if bias is None else bias.astype(np.float64)
    expected = np.clip((a @ b).numpy() + addend, *limits)
    assert (np.abs(output - expected) <= case.bound() + 2 * UNIT * np.abs(addend)).all()
    in_order = case.in_order() if bias is None else case.in_order() + bias
    np.testing.assert_array_equal(output, np.clip(in_order, *limits))


@EXAMPLES
@given(case=products(batches=1), weight_decay=st.sampled_from([0.0, 0.02]))
def test_updates_are_those_of_sgd(kernels: Kernels, case: Product, weight_decay: float) -> None:
    weights = normal(np.random.default_rng(case.seed + 1), case.rows, case.columns)
    parameter = torch.nn.Parameter(torch.tensor(weights, dtype=torch.float64))
    a, b = case.factors()
    parameter.grad = torch.tensor(a[0].astype(np.float64) @ b[0].astype(np.float64))
    torch.optim.SGD([parameter], lr=0.15, weight_decay=weight_decay).step()
    fields: dict[str, Field] = {**case.fields(), "weight_decay": weight_decay, "rate_scale": 3.0}
    kernels.call("lab_f32_matmul_sgd", fields, *case.stored(), weights, state=State(0.05, 1, 1))
    expected = parameter.detach().numpy()
    bound = 0.16 * case.bound()[0] + 4 * UNIT * (np.abs(expected) + np.abs(weights) + np.abs(parameter.grad.numpy()))
    assert (np.abs(weights - expected) <= bound).all()


def test_products_do_not_hide_what_is_no_number(kernels: Kernels) -> None:
    a, b = np.ones((1, 1, 4), np.float32), np.ones((1, 4, 20), np.float32)
    b[0, 2, 7] = np.nan
    b[0, 3, 18] = -np.inf
    output = np.zeros((1, 1, 20), np.float32)
    fields: dict[str, Field] = {
        "batch": 1, "rows": 1, "columns": 20, "depth": 4, "transpose_a": 0, "transpose_b": 0,
        "minimum": -math.inf, "maximum": math.inf}  # fmt: skip
    kernels.call("lab_f32_matmul", fields, a, b, None, output)
    assert np.isnan(output[0, 0, 7])
    assert np.isneginf(output[0, 0, 18])
    assert (np.delete(output[0, 0], [7, 18]) == 4.0).all()
