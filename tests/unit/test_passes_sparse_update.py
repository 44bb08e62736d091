"""Updates of some channels: the chosen ones end as where everything is trained, the others stay, and memory shrinks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lab.compiler.channels import Channels
from lab.compiler.host import HostTraining
from lab.compiler.operations.optimizer import Adam, Optimizer, Sgd, SgdMomentum
from lab.compiler.program import TrainingState
from lab.compiler.training import TrainingModel, compile_training
from lab.errors import CompileError

BATCH, CLASSES, RATE = 2, 4, 0.05
INT8_RATE = 0.5  # so that every weight is likely to move within few steps


class Layers(nn.Module):
    """One layer of each kind that has channels to choose from."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.full = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.hidden = nn.Linear(12, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.full(x))
        x = torch.relu(self.depth(x))
        x = torch.relu(self.point(x)).mean((2, 3))
        y: torch.Tensor = self.head(torch.relu(self.hidden(x)))
        return y


SIZES = {"full.weight": (3, 8), "depth.weight": (8, 8), "point.weight": (8, 12), "hidden.weight": (12, 6)}
"""Input and output channels."""


def data(batch: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples and labels."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn((batch, 3, 6, 6), generator=generator), torch.arange(batch) % CLASSES


def compiled(train: Mapping[str, Channels | None], optimizer: Optimizer, immediate: bool = True) -> TrainingModel:
    """The layers, trained in float32."""
    x, _ = data()
    return compile_training(
        Layers().eval(), x, loss=nn.CrossEntropyLoss(), train=train, optimizer=optimizer, immediate=immediate
    )


def indices(chosen: object, channels: int) -> list[int]:
    """Channels that a choice means."""
    if chosen is None:
        return list(range(channels))
    if isinstance(chosen, float):
        return list(range(max(1, int(channels * chosen))))
    assert isinstance(chosen, list)
    return chosen


def trained(name: str, channels: Channels | None, weight: torch.Tensor) -> torch.Tensor:
    """True where a weight (O, I, …) changes."""
    mask = torch.zeros(weight.shape, dtype=torch.bool)
    if channels is None:
        return ~mask
    inputs, outputs = SIZES[name]
    rows, columns = indices(channels.outputs, outputs), indices(channels.inputs, inputs)
    if name == "depth.weight":
        rows, columns = columns if channels.outputs is None else rows, [0]
    for row in rows:
        mask[row, columns] = True
    return mask


def in_pytorch(
    train: Mapping[str, Channels | None], make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], steps: int
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and parameters; what is not chosen is put back after every step."""
    module, (x, labels) = Layers(), data()
    parameters = dict(module.named_parameters())
    optimizer = make([parameters[name] for name in train])
    losses: list[float] = []
    for _ in range(steps):
        before = copy.deepcopy(parameters)
        loss = functional.cross_entropy(module(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for name, channels in train.items():
                mask = trained(name, channels, parameters[name])
                parameters[name].copy_(torch.where(mask, parameters[name], before[name]))
    return losses, {name: parameter.detach() for name, parameter in parameters.items()}


def check(train: Mapping[str, Channels | None], model: TrainingModel,
          make: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> None:  # fmt: skip
    """Three steps in C give PyTorch's numbers; what is not chosen keeps its bits."""
    x, labels = data()
    losses, expected = in_pytorch(train, make, 3)
    with TemporaryDirectory() as folder:
        host = HostTraining(model.compiled, Path(folder))
        first = host.variables()
        sample, target = x.permute(0, 2, 3, 1).contiguous().numpy(), labels.numpy().astype(np.int32)
        assert [host.step(sample, target, RATE) for _ in range(3)] == pytest.approx(losses, rel=1e-5)
        after = host.variables()
    for name, channels in train.items():
        mask = trained(name, channels, expected[name]).numpy()
        np.testing.assert_allclose(after[name], expected[name].numpy(), rtol=1e-4, atol=2e-6, err_msg=name)
        assert np.array_equal(after[name][~mask], first[name][~mask]), f"{name}: a frozen channel moved"
        assert not np.array_equal(after[name][mask], first[name][mask]), f"{name} was not trained"


ALL_KINDS: Mapping[str, Channels | None] = {
    "full.weight": Channels(outputs=[1, 2, 5]),
    "depth.weight": Channels(inputs=[0, 3, 4]),
    "point.weight": Channels(inputs=0.5, outputs=[2, 3, 9]),
    "hidden.weight": Channels(inputs=[1, 2, 7, 11]),
    "head.weight": None,
    "head.bias": None,
}


@pytest.mark.parametrize("immediate", [True, False], ids=["immediate", "at the end"])
@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        (Sgd(), lambda parameters: torch.optim.SGD(parameters, lr=RATE)),
        (SgdMomentum(), lambda parameters: torch.optim.SGD(parameters, lr=RATE, momentum=0.9)),
        (Adam(), lambda parameters: torch.optim.Adam(parameters, lr=RATE)),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_chosen_channels_get_the_numbers_of_pytorch(
    optimizer: Optimizer, make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], immediate: bool
) -> None:
    check(ALL_KINDS, compiled(ALL_KINDS, optimizer, immediate), make)


@st.composite
def selections(draw: st.DrawFn) -> dict[str, Channels | None]:
    """Any channels of any of the layers."""
    made: dict[str, Channels | None] = {"head.bias": None}
    for name in draw(st.sets(st.sampled_from(sorted(SIZES)), min_size=1)):
        inputs, outputs = SIZES[name]
        some_inputs = draw(st.none() | st.lists(st.integers(0, inputs - 1), min_size=1, unique=True))
        some_outputs = draw(st.none() | st.lists(st.integers(0, outputs - 1), min_size=1, unique=True))
        if name == "depth.weight" and some_inputs is not None:
            some_outputs = None
        made[name] = Channels(some_inputs, some_outputs)
    return made


@settings(max_examples=8, deadline=None)
@given(selections(), st.booleans())
def test_any_choice_of_channels(train: dict[str, Channels | None], immediate: bool) -> None:
    try:
        check(train, compiled(train, Sgd(), immediate), lambda parameters: torch.optim.SGD(parameters, lr=RATE))
    except AssertionError as error:
        # A rectifier may give a channel no gradient at all.
        if "was not trained" not in str(error):
            raise


def test_backward_keeps_and_stores_only_the_chosen_channels() -> None:
    names = {"point.weight": None, "head.bias": None}
    some = {"point.weight": Channels(inputs=[1, 2]), "head.bias": None}
    whole, part = compiled(names, Adam(), immediate=False), compiled(some, Adam(), immediate=False)
    saved = next(tensor for name, tensor in part.program.tensors.items() if name.endswith(".channels_1_2"))
    assert saved.shape == (BATCH, 3, 3, 2)
    states = [tensor.elements for tensor in part.program.of_kind("state")]
    assert sorted(states) == [CLASSES, CLASSES, 12 * 2, 12 * 2]
    training, full = part.compiled.training, whole.compiled.training
    assert training is not None
    assert full is not None
    kept = [sum(step.kept_bytes for step in each.steps) for each in (training, full)]
    assert kept[1] - kept[0] == 4 * BATCH * 9 * 6
    assert training.variables_bytes == full.variables_bytes - 4 * 2 * 12 * 6
    assert training.macs("backward") == full.macs("backward") - BATCH * 9 * 12 * 6


@pytest.mark.parametrize("immediate", [True, False], ids=["immediate", "at the end"])
def test_int8_channels_equal_their_reference(immediate: bool, tmp_path: Path) -> None:
    train = {
        "full.weight": Channels(inputs=[0, 2], outputs=[1, 2, 5]),
        "depth.weight": Channels(inputs=[0, 3, 4]),
        "point.weight": Channels(inputs=0.5),
        "hidden.weight": Channels(inputs=[1, 2, 7, 11], outputs=[1, 2, 4]),
    }
    x, labels = data(16)
    model = compile_training(
        Layers().eval(), x[:1], loss=nn.CrossEntropyLoss(), train=train, optimizer=Sgd(), immediate=immediate,
        precision="int8", calibration=x,
    )  # fmt: skip
    host = HostTraining(model.compiled, tmp_path)
    before, memory, state = host.variables(), model.program.initial_memory(), TrainingState(INT8_RATE, 0, 1)
    for sample, label in zip(x, labels, strict=True):
        physical = model.compiled.input.quantize(sample[None].permute(0, 2, 3, 1).contiguous().numpy())
        state.step += 1
        target = np.array([label], dtype=np.int32)
        values = model.program.run(torch.from_numpy(physical), torch.from_numpy(target), memory, state)
        assert host.step(physical, target, INT8_RATE) == pytest.approx(float(values[model.program.loss]), rel=1e-4)
    assert host.state.random == state.random
    after = host.variables()
    for name, raw in host.raw_variables().items():
        expected = memory[name].numpy()
        found = np.frombuffer(raw, dtype=expected.dtype).reshape(expected.shape)
        if not name.endswith("bias"):
            assert np.array_equal(found, expected), name
        if name in train:
            mask = trained(name, train[name], torch.from_numpy(after[name])).numpy()
            assert np.array_equal(after[name][~mask], before[name][~mask]), f"{name}: a frozen channel moved"
            assert not np.array_equal(after[name][mask], before[name][mask]), f"{name} was not trained"


@pytest.mark.parametrize(
    ("name", "channels", "told"),
    [
        ("point.weight", Channels(inputs=0.0), "a share is above 0"),
        ("point.weight", Channels(inputs=1.5), "a share is above 0"),
        ("point.weight", Channels(inputs=[8]), "there are 8"),
        ("point.weight", Channels(outputs=[-1]), "there are 12"),
        ("point.weight", Channels(outputs=[3, 3]), "each once"),
        ("point.weight", Channels(outputs=[]), "at least one"),
        ("depth.weight", Channels(inputs=[0], outputs=[0]), "alone"),
        ("head.bias", Channels(outputs=[0]), "no weight of one convolution"),
    ],
)
def test_channels_that_are_not_there_are_refused(name: str, channels: Channels, told: str) -> None:
    with pytest.raises(CompileError, match=told) as refused:
        compiled({name: channels, "head.weight": None}, Sgd())
    assert f"'{name}'" in str(refused.value)


def test_groups_have_no_channels_to_choose() -> None:
    module = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2))
    with pytest.raises(CompileError, match="2 groups"):
        compile_training(
            module, torch.randn(1, 4, 2, 2), loss=nn.CrossEntropyLoss(), train={"0.weight": Channels(inputs=[0])},
            optimizer=Sgd(),
        )  # fmt: skip
