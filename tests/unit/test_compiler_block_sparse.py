"""Linear layers of kept blocks: the C, the program's reference and masks over dense weights in PyTorch do the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.kernel_runner import check_kernel, run_kernel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.compiler.graph import Clamp
from lab.compiler.host import HostTraining
from lab.compiler.operations.block_sparse import BLOCK, BlockInputGradient, BlockLinear, BlockSgd, Renewal, dense
from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.compiler.training_passes.block_sparse import Blocks
from lab.errors import CompileError

INPUTS, HIDDEN, CLASSES = 16, 12, 3
NAME = "0.weight"


def network() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(INPUTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def compiled(blocks: dict[str, Blocks], optimizer: Optimizer | None = None, batch: int = 1) -> TrainingModel:
    return compile_training(
        network(), torch.zeros(batch, INPUTS), loss=functional.cross_entropy, train=lambda _name, _one: True,
        optimizer=optimizer or Sgd(), blocks=blocks,
    )  # fmt: skip


def material(steps: int) -> tuple[torch.Tensor, np.ndarray]:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(steps, INPUTS, generator=generator), (np.arange(steps) % CLASSES).astype(np.int32)


def kernel_inputs(outputs: int, kept: int, there: int, seed: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    """Gradient (some rows without one), input, kept weights, block numbers."""
    generator = np.random.default_rng(seed)
    places = np.stack([generator.permutation(there)[:kept] for _ in range(outputs)]).astype(np.uint8)
    gradient = generator.standard_normal((batch, outputs)) * (generator.random(outputs) > 0.3)
    arrays = (gradient, generator.standard_normal((batch, there * BLOCK)),
              generator.standard_normal((outputs, kept * BLOCK)))  # fmt: skip
    return (*(torch.from_numpy(one.astype(np.float32)) for one in arrays), torch.from_numpy(places))


@settings(max_examples=20, deadline=None)
@given(
    outputs=st.integers(1, 9), there=st.integers(1, 7), share=st.floats(0, 1), seed=st.integers(0, 99),
    batch=st.integers(1, 3),
)  # fmt: skip
def test_kernels_are_dense_products_with_zeros(outputs: int, there: int, share: float, seed: int, batch: int) -> None:
    """On whole numbers, whose sums float32 has exactly in any order."""
    kept = 1 + round(share * (there - 1))
    *values, places = kernel_inputs(outputs, kept, there, seed, batch)
    # No weight is 0: those of the blocks are counted.
    gradient, x, weights = (torch.where(one == 0, one, one.sign() * (4 * one.abs()).ceil()) for one in values)
    whole = dense(weights, places, there * BLOCK)
    assert int((whole != 0).sum()) == weights.numel()
    bias = torch.arange(outputs, dtype=torch.float32) - 4
    forward = BlockLinear(outputs, kept, Clamp(0.0, 6.0), batch)
    backward = BlockInputGradient(outputs, kept, there * BLOCK, batch)
    expected = functional.linear(x, whole, bias).clamp(0, 6)
    torch.testing.assert_close(forward.run([x, weights, places, bias])[0], expected)
    torch.testing.assert_close(backward.run([gradient, weights, places])[0], gradient @ whole)
    check_kernel(forward, [x, weights, places, bias], relative=0, absolute=0)
    check_kernel(forward, [x, weights, places, None], relative=0, absolute=0)
    check_kernel(backward, [gradient, weights, places], relative=0, absolute=0)


@settings(max_examples=20, deadline=None)
@given(
    changed=st.integers(1, 6), renew=st.integers(0, 3), step=st.integers(1, 30), seed=st.integers(0, 99),
    batch=st.integers(1, 3),
)  # fmt: skip
def test_a_step_changes_what_its_masks_let_through(changed: int, renew: int, step: int, seed: int, batch: int) -> None:
    gradient, x, weights, places = kernel_inputs(6, 2, 5, seed, batch)
    threshold = torch.tensor([0.5])
    operation = BlockSgd(6, 2, 5, changed, Renewal(renew), 1.0, batch)
    inputs = [gradient, x, weights, places, threshold]
    expected = operation.apply(inputs, TrainingState(0.1, step, 1 + seed))
    found = run_kernel(operation, inputs, expected, written=(2, 3, 4), state=TrainingState(0.1, step, 1 + seed))
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    new, moved, _ = found
    masked = torch.where(gradient.abs().sum(0) > threshold, gradient, torch.zeros(()))
    whole = dense(weights, places, 20) - 0.1 * masked.T @ x
    for row in range(6):
        assert len(set(moved[row].tolist())) == 2, "a block is kept once"
        renewed = renew > 0 and step % renew == 0 and row == step // renew % 6
        assert (moved[row] != places[row]).sum() == int(renewed)
        for k, place in enumerate(moved[row].tolist()):
            values = new[row].reshape(2, BLOCK)[k]
            if place == places[row, k]:
                torch.testing.assert_close(values, whole[row].reshape(5, BLOCK)[place])
            else:
                assert not values.any(), "what grows begins at zero"
                others = (whole[row].reshape(5, BLOCK)[one].abs().sum() for one in places[row].tolist())
                assert whole[row].reshape(5, BLOCK)[int(places[row, k])].abs().sum() == min(others)


def test_a_task_begins_with_a_block_more_in_each_row_and_then_each_row_gives_up_its_weakest() -> None:
    """Every step of two tasks in C and by the reference; what is kept when, counted."""
    rows, kept, there, renewal = 5, 3, 6, Renewal(steps=2, rows=2, task=12, expanded=4, settled=9)
    gradient, x, weights, places = kernel_inputs(rows, kept, there, 1)
    operation = BlockSgd(rows, kept, there, rows, renewal, 1.0)
    state, moved = TrainingState(0.01, 0, 5), []
    for step in range(1, 25):
        state.step = step
        inputs = [gradient, x, weights, places, torch.zeros(1)]
        here = TrainingState(0.01, step, state.random)
        expected = operation.apply(inputs, state)
        found = run_kernel(operation, inputs, expected, written=(2, 3, 4), state=here)
        for got, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(got, wanted)
        moved.append(int((found[1] != places).any(1).sum()))
        spare = found[0].reshape(rows, kept, BLOCK)[:, -1]
        if step % 12 < 4:
            assert bool(spare.any()) == (step % 12 > 0), "drawn at zero behind a task, and learning in its first steps"
        else:
            assert not spare.any(), "it sleeps"
        if step % 12 == 4:
            least = expected_after(weights, places, gradient, x).abs().sum(2).min(1).values
            left = found[0].reshape(rows, kept, BLOCK)[:, :-1].abs().sum(2).min(1).values
            assert bool((left >= least).all())
        assert all(len(set(row.tolist())) == kept for row in found[1])
        weights, places = found[0], found[1]
    changes = [number for number, count in enumerate(moved, 1) if count]
    assert changes == [4, 6, 8, 12, 16, 18, 20, 24], "shrunk, renewed twice, expanded; settled from step 9 of a task on"
    assert [moved[one - 1] for one in (6, 8, 18, 20)] == [2] * 4


def expected_after(
    weights: torch.Tensor, places: torch.Tensor, gradient: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """Blocks (rows, kept, 4) behind a step in which all learn, before any is given up."""
    whole = (dense(weights, places, x.numel()) - 0.01 * gradient.T * x).reshape(len(places), -1, BLOCK)
    return whole.gather(1, places.to(torch.int64)[:, :, None].expand(-1, -1, BLOCK))


@pytest.mark.parametrize("batch", [1, 4])
def test_all_blocks_kept_are_the_dense_layer(tmp_path: Path, batch: int) -> None:
    """Nothing is masked, so that training must come to what the dense program comes to."""
    whole = Blocks(INPUTS // BLOCK)
    samples, labels = material(20)
    found = []
    for number, blocks in enumerate(({}, {NAME: whole, "2.weight": Blocks(HIDDEN // BLOCK)})):
        folder = tmp_path / str(number)
        folder.mkdir()
        host = HostTraining(compiled(blocks, batch=batch).compiled, folder)
        starts = range(0, len(samples), batch)
        losses = [host.step(samples[n : n + batch].numpy(), labels[n : n + batch], 0.1) for n in starts]
        found.append((losses, host.variables()))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5)
    for name, values in found[0][1].items():
        np.testing.assert_allclose(found[1][1][name], values, rtol=1e-4, atol=1e-6, err_msg=name)


def test_training_is_the_references_and_saves_what_it_leaves_out(tmp_path: Path) -> None:
    made = compiled({NAME: Blocks(2, changed=0.5, renewal=Renewal(3)), "2.weight": Blocks(1, changed=0.25)})
    samples, labels = material(60)
    host, memory, state = HostTraining(made.compiled, tmp_path), made.program.initial_memory(), TrainingState(0.1, 0)
    started = {name: value.clone() for name, value in memory.items()}
    for n, one in enumerate(samples):
        loss = host.step(one.numpy(), labels[n : n + 1], 0.1)
        state.step += 1
        values = made.program.run(one[None], torch.from_numpy(labels[n : n + 1]), memory, state)
        assert loss == pytest.approx(float(values[made.program.loss]), abs=1e-5)
    for name, value in host.variables().items():
        np.testing.assert_allclose(value, memory[name].numpy().astype(np.float32), rtol=1e-4, atol=1e-6, err_msg=name)
    assert not torch.equal(started[f"{NAME}.blocks"], memory[f"{NAME}.blocks"])
    assert torch.equal(started["2.weight.blocks"], memory["2.weight.blocks"]), "its mask is to stay"
    plain = compiled({}).compiled.training
    training = made.compiled.training
    assert plain is not None
    assert training is not None
    assert training.variables_bytes < 0.6 * plain.variables_bytes
    assert training.macs("forward") == INPUTS * HIDDEN // 2 + HIDDEN * 8 // 3 + 8 * CLASSES


def test_the_threshold_follows_the_share() -> None:
    """Gradients whose size falls by orders of magnitude: about the chosen share of rows stays above the threshold."""
    operation, generator = BlockSgd(40, 1, 2, 10, Renewal(), 1.0), np.random.default_rng(5)
    _, x, weights, places = kernel_inputs(40, 1, 2, 0)
    threshold, passed = torch.tensor([1e-3]), []
    for step in range(400):
        scale = 10 ** (-step / 200)
        gradient = torch.from_numpy((scale * generator.standard_normal((1, 40))).astype(np.float32))
        passed.append(int((gradient.abs() > threshold).sum()))
        state = TrainingState(0.1, step + 1)
        weights, places, threshold = operation.apply([gradient, x, weights, places, threshold], state)
    assert np.mean(passed[100:]) == pytest.approx(10, abs=1.5)


def test_the_first_mask_is_drawn_by_its_seed_and_keeps_the_modules_values() -> None:
    first, same, other = (compiled({NAME: Blocks(2, seed=seed)}).program.initial_memory() for seed in (1, 1, 2))
    assert torch.equal(first[f"{NAME}.blocks"], same[f"{NAME}.blocks"])
    assert not torch.equal(first[f"{NAME}.blocks"], other[f"{NAME}.blocks"])
    whole = dense(first[NAME], first[f"{NAME}.blocks"], INPUTS)
    weight = network().get_parameter(NAME).detach()
    assert torch.equal(whole[whole != 0], weight[whole != 0])


@pytest.mark.parametrize(
    ("blocks", "told"),
    [
        (Blocks(0), "kept from 1 to 4 of its 4 blocks"),
        (Blocks(5), "kept from 1 to 4"),
        (Blocks(4, renewal=Renewal(1)), "kept from 1 to 3 of its 4 blocks"),
        (Blocks(2, changed=0.0), "changed above 0 and at most 1"),
        (Blocks(3, renewal=Renewal(2, 1, 10, 2, 8)), "kept from 1 to 2 of its 4 blocks"),
        (Blocks(2, renewal=Renewal(2, 1, 10, 0, 8)), "of a task 0 or above"),
        (Blocks(2, renewal=Renewal(-1)), "steps of a renewal from 0"),
    ],
)
def test_blocks_that_are_not_there_are_refused(blocks: Blocks, told: str) -> None:
    with pytest.raises(CompileError) as refused:
        compiled({NAME: blocks})
    assert told in str(refused.value)


def test_what_is_no_weight_of_a_linear_layer_is_refused() -> None:
    for name in ("0.bias", "nothing"):
        with pytest.raises(CompileError, match=f"blocks of '{name}'"):
            compiled({name: Blocks(1)})
    with pytest.raises(CompileError, match="or convolution trained by SGD"):
        compiled({NAME: Blocks(1)}, optimizer=Adam())
    with pytest.raises(CompileError, match="no blocks can be kept"):
        compile_training(
            nn.Sequential(nn.Linear(6, 3)), torch.zeros(1, 6), loss=functional.cross_entropy, train=[NAME],
            optimizer=Sgd(), blocks={NAME: Blocks(1)},
        )  # fmt: skip
