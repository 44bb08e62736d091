"""Fisher information and class means of a training step: PyTorch's numbers, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from lab.compiler.host import HostTraining
from lab.compiler.operations.observe import ClassMeanUpdate, FisherUpdate
from lab.compiler.operations.optimizer import Adam, Sgd
from lab.compiler.program import TrainingState
from lab.compiler.training import compile_training
from lab.compiler.training_passes.observe import ClassMeans
from lab.errors import CompileError

WAYS, DEPTH, SAMPLES = 3, 5, 6
LAYERS = ("first", "depth", "last")


class Net(nn.Module):
    """Convolutions with and without a clamp, one of them depthwise, whose features meet class means."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.depth = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.last = nn.Conv2d(4, DEPTH, 1)
        self.means = nn.Parameter(torch.randn(WAYS, DEPTH))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """(n, DEPTH)."""
        x = functional.relu6(self.first(x))
        return self.last(functional.relu(self.depth(x))).mean((2, 3))  # type: ignore[no-any-return]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(self.features(x), 2 * self.means)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and labels in rounds of one of each class."""
    generator = torch.Generator().manual_seed(4)
    # Large enough that ReLU6 saturates somewhere: what is clamped must not count.
    return 4 * torch.randn((SAMPLES, 2, 5, 4), generator=generator), torch.arange(SAMPLES) % WAYS


def on_host(model: HostTraining, rate: float) -> list[float]:
    """One pass over the samples."""
    x, labels = data()
    samples = x.permute(0, 2, 3, 1).contiguous().numpy()
    targets = labels.numpy().astype(np.int32)
    return [model.step(samples[n : n + 1], targets[n : n + 1], rate) for n in range(SAMPLES)]


def test_fisher_information_is_that_of_pytorch(tmp_path: Path) -> None:
    """Squared after the sum over positions, halved, the mean over the samples; weights and means stay as they are."""
    made = compile_training(
        Net(), data()[0][:1], loss=functional.cross_entropy, train=(), optimizer=Sgd(), observe=LAYERS
    )
    host = HostTraining(made.compiled, tmp_path)
    on_host(host, 1 / SAMPLES)
    network, (x, labels) = Net(), data()
    expected = {"first": torch.zeros(4), "depth": torch.zeros(4), "last": torch.zeros(DEPTH)}
    for sample, label in zip(x, labels, strict=True):
        first = network.first(sample[None])
        depth = network.depth(functional.relu6(first))
        last = network.last(functional.relu(depth))
        outputs = dict(zip(LAYERS, (first, depth, last), strict=True))
        loss = functional.cross_entropy(functional.linear(last.mean((2, 3)), 2 * network.means), label[None])
        gradients = torch.autograd.grad(loss, list(outputs.values()))
        for (name, output), gradient in zip(outputs.items(), gradients, strict=True):
            expected[name] += (output * gradient).sum((0, 2, 3)).square().detach() / (2 * SAMPLES)
    found = host.variables()
    assert set(found) == {f"{name}.fisher" for name in LAYERS}
    for name in LAYERS:
        np.testing.assert_allclose(found[f"{name}.fisher"], expected[name].numpy(), rtol=2e-5, atol=1e-9, err_msg=name)


def test_only_the_observed_layers_are_reached() -> None:
    made = compile_training(
        Net(), data()[0][:1], loss=functional.cross_entropy, train=(), optimizer=Sgd(), observe=("last",)
    )
    backward = [step.name for step in made.program.steps if step.phase == "backward"]
    assert "last.fisher" in backward
    assert not any(name.startswith(("first", "depth")) for name in backward)


def test_class_means_are_the_mean_and_then_run_while_weights_train(tmp_path: Path) -> None:
    """In C, in the program's reference and in PyTorch: rounds of 1 / n, then a constant share, with Adam beside."""
    x, labels = data()
    train, means = ["last.weight"], ClassMeans("means", 0.25, WAYS, 2)
    made = compile_training(
        Net(), x[:1], loss=functional.cross_entropy, train=train, optimizer=Adam(), means=means
    )
    host = HostTraining(made.compiled, tmp_path)
    losses = on_host(host, 0.01) + on_host(host, 0.01)
    network, memory, state = Net(), made.program.initial_memory(), TrainingState(0.01, 0)
    optimizer = torch.optim.Adam([network.last.weight], 0.01)
    expected: list[float] = []
    for step in range(2 * SAMPLES):
        sample, label = x[step % SAMPLES], labels[step % SAMPLES]
        features = network.features(sample[None])
        loss = functional.cross_entropy(functional.linear(features, 2 * network.means), label[None])
        expected.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        gain = 1 / (step // WAYS + 1) if step < 2 * WAYS else 0.25
        with torch.no_grad():
            network.means[label] += gain * (features[0] - network.means[label])
        state.step += 1
        made.program.run(sample.permute(1, 2, 0)[None], label[None], memory, state)
    assert losses == pytest.approx(expected, rel=1e-4)
    found = host.variables()
    np.testing.assert_allclose(found["means"], network.means.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["means"], memory["means"].numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["last.weight"], network.last.weight.detach().numpy(), rtol=1e-3, atol=1e-5)


def test_means_alone_need_no_backward_pass() -> None:
    means = ClassMeans("means", 0.0, WAYS, 2)
    made = compile_training(
        Net(), data()[0][:1], loss=functional.cross_entropy, train=(), optimizer=Sgd(), means=means
    )
    assert [step.operation.kind for step in made.program.steps if step.phase != "forward"] == ["class_mean"]


def test_batches_count_each_sample_and_foreign_labels_none() -> None:
    """The references with a batch of two: Fisher information adds squares per sample, means leave labels out."""
    generator = torch.Generator().manual_seed(5)
    a, g = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    (total,) = FisherUpdate(2, 3, 4).apply([torch.ones(4), g, a], TrainingState(0.5))
    np.testing.assert_allclose(total, 1 + 0.25 * ((a * g).sum(1) ** 2).sum(0), rtol=1e-6)
    means, features = torch.zeros(2, 2), torch.tensor([[2.0, 4.0], [1.0, 1.0], [6.0, 8.0]])
    (moved,) = ClassMeanUpdate(3, 2, 2, 0.5).apply([means, features, torch.tensor([1, 2, 1])], TrainingState(1.0))
    assert moved.tolist() == [[0.0, 0.0], [3.5, 5.0]]
    assert means.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("train", "options", "said"),
    [
        ((), {"observe": ("norm",)}, "'norm.bias' is no parameter of Net"),
        ((), {"means": ClassMeans("prototypes", 0.5)}, "'prototypes' is no parameter of Net"),
        ((), {"means": ClassMeans("last.bias", 0.5)}, "meets features in no matrix product"),
        ((), {"means": ClassMeans("means", 1.5)}, "the gain of class means is 1.5"),
        ((), {"means": ClassMeans("means", 0.5, 0)}, "in rounds of 0"),
        ((), {}, "no parameter is trained"),
    ],
)
def test_what_cannot_be_is_refused(train: tuple[str, ...], options: dict[str, object], said: str) -> None:
    with pytest.raises(CompileError, match=said):
        compile_training(
            Net(), data()[0][:1], loss=functional.cross_entropy, train=train, optimizer=Sgd(),
            **options,  # type: ignore[arg-type]
        )  # fmt: skip


def test_fisher_information_of_what_is_no_convolution_is_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    with pytest.raises(CompileError, match="the Fisher information of '1' is asked for, which is no convolution"):
        compile_training(
            module, torch.zeros(1, 6), loss=functional.cross_entropy, train=(), optimizer=Sgd(), observe=("1",)
        )


def test_int8_is_refused() -> None:
    with pytest.raises(CompileError, match="computed in float32"):
        compile_training(
            Net(), data()[0][:1], loss=functional.cross_entropy, train=(), optimizer=Sgd(), observe=("last",),
            precision="int8", calibration=data()[0],
        )  # fmt: skip
