"""PyTorch on a device: its environment, checked or made of wheels, and the runner that is sent there."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import cbor2
import numpy as np
import pytest
import torch
from cobs import cobs
from helpers import tiny_workload
from helpers.desk_remote import DeskRemote
from helpers.toolchain import needs_host_compiler
from hypothesis import given
from hypothesis import strategies as st

import lab.workloads
from lab.devices import payload_runner
from lab.devices.base import Device, Identity
from lab.devices.connect import connected
from lab.devices.linux import Linux
from lab.devices.machine import RealMachine
from lab.devices.python_payload import PythonEnvironment, environment_on, payload_command, wheels_in
from lab.environment_config import PythonPayload
from lab.errors import ConfigError, Crash, NoAccelerator, ProtocolError, WorkloadError
from lab.events import Done, Hello, Job, MetricEvent, RegionEvent, ResultEvent
from lab.inventory import load_bench
from lab.paths import cache_dir
from lab.roofline import measure_kernels, measure_peaks
from lab.runs import deploy, measure
from lab.torch_programs import (
    artifact_of,
    in_pytorch,
    named,
    require_accelerator,
    split_accelerator,
    split_variant,
)
from lab.training import checkpoint, first_steps, forget, restore, training_job
from lab.transports.remote import Finished
from lab.wire_frames import decode_frame, encode_frame
from lab.workloads.base import Dataset, Prepared, TorchProgram
from lab.workloads.networks import exported
from measurements.report import write_report
from measurements.roofline import COPY, MULTIPLY_ADD, TRANSFER
from measurements.store import Store

VALUES = st.dictionaries(
    st.text(max_size=8),
    st.integers(-(2**63), 2**64 - 1) | st.binary(max_size=300) | st.text(max_size=40) | st.floats(allow_nan=False),
    max_size=5,
)


# ---- the wire, against the packages that the lab's own end uses ------------------------------------------------------


@given(st.binary(max_size=1200))
def test_stuffing(data: bytes) -> None:
    assert cobs.decode(payload_runner.cobs_encode(data)) == data
    assert payload_runner.cobs_decode(cobs.encode(data)) == data


@given(st.sampled_from((253, 254, 255, 508, 509)), st.booleans())
def test_stuffing_at_the_length_of_a_block(length: int, zero_behind: bool) -> None:
    data = b"\x01" * length + b"\0" * zero_behind
    assert cobs.decode(payload_runner.cobs_encode(data)) == data
    assert payload_runner.cobs_decode(cobs.encode(data)) == data


@given(VALUES)
def test_messages(message: dict[str, int | bytes | str | float]) -> None:
    assert cbor2.loads(payload_runner.cbor_encode(message)) == message
    assert payload_runner.decode_frame(encode_frame(message)[:-1]) == message
    encoded = payload_runner.cbor_encode(message)
    framed = payload_runner.cobs_encode(encoded + zlib.crc32(encoded).to_bytes(4, "little"))
    assert decode_frame(framed) == message


@given(st.binary(max_size=80))
def test_garbage_is_no_message(data: bytes) -> None:
    assert payload_runner.decode_frame(data) == decode_frame(data)


# ---- environments ----------------------------------------------------------------------------------------------------


def wheel(folder: Path, name: str, version: str, body: str = "") -> Path:
    """A wheel of one module."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    files = {
        f"{name}.py": body,
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-{version}.dist-info/RECORD"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
        archive.writestr(record, "".join(f"{file},,\n" for file in (*files, record)))
    return path


@pytest.fixture
def desk(tmp_path: Path) -> DeskRemote:
    home = tmp_path / "home"
    home.mkdir()
    return DeskRemote(home)


def test_an_existing_environment_is_described(desk: DeskRemote) -> None:
    found = environment_on(desk, PythonPayload(venv=sys.prefix), "/unused")
    assert found.version == ".".join(map(str, sys.version_info[:3]))
    assert found.packages["torch"] == torch.__version__
    assert f"torch {torch.__version__}" in found.title
    assert not found.made
    assert desk.sent == []


def test_an_environment_that_is_none(desk: DeskRemote) -> None:
    (desk.home / "venv/bin").mkdir(parents=True)
    (desk.home / "venv/bin/python").write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    (desk.home / "venv/bin/python").chmod(0o755)
    with pytest.raises(ConfigError, match=r"home/venv/bin/python does not run: no such library") as caught:
        environment_on(desk, PythonPayload(venv="~/venv"), "/unused")
    assert "without /bin/python" in caught.value.hint
    (desk.home / "venv/bin/python").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(ConfigError, match="printed 'hello', not what it is"):
        environment_on(desk, PythonPayload(venv="venv"), "/unused")
    described = '{"version": "3.9.1", "machine": "x", "packages": {}, "accelerators": {}, "lacking": ""}'
    (desk.home / "venv/bin/python").write_text(f"#!/bin/sh\necho '{described}'\n")
    with pytest.raises(ConfigError, match="has no PyTorch"):
        environment_on(desk, PythonPayload(venv="venv"), "/unused")


def test_an_environment_of_wheels_is_made_once_and_never_upgraded(desk: DeskRemote, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel(wheels, "torch", "1.0")
    wheel(wheels, "some_thing", "2.1")
    config = PythonPayload(wheels=str(wheels), interpreter=sys.executable)
    folder = str(desk.home / "lab")
    made = environment_on(desk, config, folder)
    assert made.made
    assert {"torch": "1.0", "some-thing": "2.1"}.items() <= made.packages.items()
    assert made.program.startswith(f"{folder}/envs/")
    sent = list(desk.sent)
    assert len(sent) == 2
    assert environment_on(desk, config, folder) == made
    assert desk.sent == sent
    # Other wheels make another environment, and the first stays as it is.
    wheel(wheels, "torch", "1.1")
    (wheels / "torch-1.0-py3-none-any.whl").unlink()
    other = environment_on(desk, config, folder)
    assert (other.packages["torch"], other.program != made.program) == ("1.1", True)
    # One that somebody changed is refused, with the way out.
    (site,) = Path(other.program).parents[1].glob("lib/python*/site-packages/torch-1.1.dist-info")
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 1.2\n")
    with pytest.raises(ConfigError, match="somebody changed it") as caught:
        environment_on(desk, config, folder)
    assert "rm -r" in caught.value.hint


def test_wheels_that_cannot_be_used(desk: DeskRemote, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no wheel"):
        wheels_in(tmp_path)
    wheel(tmp_path, "torch", "1.0").write_bytes(b"")
    config = PythonPayload(wheels=str(tmp_path), interpreter=sys.executable)
    with pytest.raises(ConfigError, match="failed") as caught:
        environment_on(desk, config, str(desk.home / "lab"))
    assert "wheels for the device's Python" in caught.value.hint
    with pytest.raises(ConfigError, match="failed"):
        environment_on(desk, PythonPayload(wheels=str(tmp_path), interpreter="false"), str(desk.home / "other"))


PI = "python-of-the-pi"
SAID = {
    (PI, "-I", "-c"): lambda: Finished(0, b"3.11 aarch64\n", b""),
    (PI, "-I", "-m"): lambda: Finished(1, b"", b"no venv here"),
}


@pytest.mark.parametrize(
    "tags",
    [
        "cp311-cp311-manylinux_2_28_x86_64", "cp312-cp312-manylinux_2_28_aarch64", "cp311-cp311-win_arm64",
        "cp311-cp311-macosx_11_0_arm64", "cp312-abi3-manylinux2014_aarch64", "cp310-cp310-linux_aarch64",
    ],
)  # fmt: skip
def test_a_wheel_for_another_python_or_processor_is_refused_before_it_is_sent(
    desk: DeskRemote, tmp_path: Path, tags: str
) -> None:
    desk.answers |= SAID
    wheel(tmp_path, "aaa", "1.0")
    (tmp_path / f"torch-2.9.1-{tags}.whl").touch()
    with pytest.raises(ConfigError, match=f"torch-2.9.1-{tags}.whl is for .* has Python 3.11 on aarch64") as caught:
        environment_on(desk, PythonPayload(wheels=str(tmp_path), interpreter=PI), "lab")
    assert "--python-version 3.11 --platform manylinux_2_28_aarch64 torch" in caught.value.hint
    assert desk.sent == []


@pytest.mark.parametrize(
    "tags",
    [
        "cp311-cp311-manylinux_2_28_aarch64", "cp311-cp311-manylinux2014_aarch64.manylinux_2_17_aarch64",
        "py3-none-any", "py2.py3-none-any", "cp38-abi3-linux_aarch64", "py3-none-manylinux2014_aarch64",
    ],
)  # fmt: skip
def test_a_wheel_for_the_devices_python_is_sent(desk: DeskRemote, tmp_path: Path, tags: str) -> None:
    desk.answers |= SAID
    (tmp_path / f"torch-2.9.1-{tags}.whl").touch()
    with pytest.raises(ConfigError, match="no venv here"):
        environment_on(desk, PythonPayload(wheels=str(tmp_path), interpreter=PI), "lab")
    assert len(desk.sent) == 1


def test_a_pytorch_that_does_not_load_is_no_environment(desk: DeskRemote, tmp_path: Path) -> None:
    wheel(tmp_path, "torch", "1.0", "raise ImportError('libpthread.so.0: cannot open shared object file')")
    config = PythonPayload(wheels=str(tmp_path), interpreter=sys.executable)
    with pytest.raises(ConfigError, match=r"failed: .*ImportError: libpthread\.so\.0: cannot open"):
        environment_on(desk, config, str(desk.home / "lab"))
    assert list(desk.home.glob("lab/envs/*/bin/python"))
    assert not list(desk.home.glob("lab/envs/*/lab-complete.json"))


# ---- the runner, in the lab's own Python -----------------------------------------------------------------------------


class Net(torch.nn.Module):
    """A convolution and a classifier; the convolution is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(1, 2, 3)
        self.classifier = torch.nn.Linear(2 * 16, 3)
        self.convolution.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(torch.relu(self.convolution(x)).flatten(1))
        return out


RATE = 0.05


def program_and_network() -> tuple[TorchProgram, Net]:
    torch.manual_seed(3)
    network = Net().eval()
    inputs, labels = torch.randn(5, 1, 6, 6), torch.tensor([0, 2, 1, 1, 0])
    archive = exported(network, inputs[:1])
    job = training_job(
        inputs.numpy(), labels.numpy().astype(np.int32), epochs=2, learning_rate=RATE, order=[0, 1, 2, 3, 4] * 2
    )
    with torch.no_grad():
        outputs = network(inputs).numpy()
    return TorchProgram(archive, inputs.numpy(), outputs, labels.numpy(), job), network


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Linux, TorchProgram, Net]]:
    """The program on a device; one start for all tests, since PyTorch takes seconds to load."""
    folder = tmp_path_factory.mktemp("payload")
    program, network = program_and_network()
    remote = DeskRemote(folder)
    device = Linux(
        Identity("desk", "linux-x86-64", "hardware", "", frozenset()),
        RealMachine("desk", lambda: remote),
        "lab",
        python=PythonPayload(venv=sys.prefix),
    )
    artifact = artifact_of(program, "net", "linux-x86-64", folder / "cache")
    hello = device.deploy(artifact)
    assert (hello.build_id, hello.model, hello.clock) == (artifact.build_id, "net", "monotonic")
    assert named(artifact, device).toolchain == device.python().title
    yield device, program, network
    device.close()


def test_inference(running: tuple[Linux, TorchProgram, Net]) -> None:
    device, program, _ = running
    events = list(device.run(Job("infer", program.inputs.tobytes(), 5, repeats=2, profile=True)))
    passes = [event for event in events if isinstance(event, RegionEvent)]
    assert [event.index for event in passes] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(event.end > event.begin for event in passes)
    results = b"".join(event.data for event in events if isinstance(event, ResultEvent))
    np.testing.assert_allclose(np.frombuffer(results, np.float32).reshape(5, 3), program.outputs, rtol=1e-5, atol=1e-6)
    (peak,) = (event.value for event in events if isinstance(event, MetricEvent))
    assert 50e6 < peak < 5e9
    assert isinstance(events[-1], Done)
    assert (events[-1].events, events[-1].results) == (10, 5)


def test_a_pytorch_that_forgets_what_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyTorch 2.9 makes parameters of all weights it loads.
    program, _ = program_and_network()
    (tmp_path / "program.pt2").write_bytes(program.archive)
    load = torch.export.load

    def forgetful(path: str) -> torch.export.ExportedProgram:
        loaded = load(path)
        for value in loaded.state_dict.values():
            value.requires_grad_(True)
        return loaded

    monkeypatch.setattr(torch.export, "load", forgetful)
    loaded = payload_runner.Program(str(tmp_path / "program.pt2"), "cpu")
    before = loaded.variables()
    torch.autograd.backward(loaded.loss(loaded.sample(program.inputs.tobytes(), 0), loaded.label(1)))
    loaded.update(RATE)
    changed = {name for name, value in loaded.variables().items() if value != before[name]}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_training_agrees_with_torch_optim(running: tuple[Linux, TorchProgram, Net]) -> None:
    device, program, network = running
    assert program.training is not None
    forget(device)
    events = list(device.run(program.training))
    losses = [event.value for event in events if isinstance(event, MetricEvent)]
    optimizer = torch.optim.SGD([one for one in network.parameters() if one.requires_grad], lr=RATE)
    expected = []
    for index in [0, 1, 2, 3, 4] * 2:
        optimizer.zero_grad()
        output = network(torch.from_numpy(program.inputs[index : index + 1]))
        loss = torch.nn.functional.cross_entropy(output, torch.from_numpy(program.labels[index : index + 1]))
        torch.autograd.backward(loss)
        optimizer.step()
        expected.append(loss.item())
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    saved = checkpoint(device)
    assert saved.step == 10
    for name, parameter in network.named_parameters():
        found = np.frombuffer(saved.variables[name], np.float32).reshape(parameter.shape)
        np.testing.assert_allclose(found, parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


def test_forget_and_restore(running: tuple[Linux, TorchProgram, Net]) -> None:
    device, program, _ = running
    assert program.training is not None
    forget(device)
    fresh = checkpoint(device)
    events = list(device.run(first_steps(program.training, 2)))
    assert [event.region for event in events if isinstance(event, RegionEvent)] == [
        "train.copy_in", "train.forward", "train.copy_out", "train.backward", "train.update",
    ] * 2  # fmt: skip
    assert checkpoint(device).variables != fresh.variables
    restore(device, fresh)
    assert checkpoint(device) == fresh
    with pytest.raises(ProtocolError, match="another program, or is damaged"):
        list(device.run(Job("restore", b"", 0, warmup=0, blobs={"checkpoint": b"x" * 40})))


def test_refusals(running: tuple[Linux, TorchProgram, Net]) -> None:
    device, program, _ = running
    with pytest.raises(ProtocolError, match="the blob has 4 bytes; 144 are needed"):
        list(device.run(Job("infer", b"1234", 1)))
    with pytest.raises(ProtocolError, match="no such job"):
        list(device.run(Job("dance", b"", 0)))
    wrong = training_job(program.inputs[:1], np.array([7], np.int32), learning_rate=RATE)
    with pytest.raises(Crash, match=r"IndexError: Target 7 is out of bounds"):
        list(device.run(wrong))
    huge = training_job(np.full((1, 1, 6, 6), np.inf, np.float32), np.array([0], np.int32), learning_rate=RATE)
    with pytest.raises(WorkloadError, match="the loss is nan"):
        list(device.run(huge))
    forget(device)
    assert device.instructions(Job("infer", b"", 1)) == {}


def test_the_peaks_of_the_accelerator(running: tuple[Linux, TorchProgram, Net], tmp_path: Path) -> None:
    """Between rates that no processor reaches and that none falls below."""
    device, program, _ = running
    artifact = replace(artifact_of(program, "net", "linux-x86-64", tmp_path), flags="accelerator cpu: some, 1 MHz")
    hello = Hello(1, artifact.build_id, "linux-x86-64", "monotonic", 10**9, 32768, 8, 0, 1 << 30, 0, 0, "net")
    found = {(one.region, one.metric): one for one in measure_peaks(device, hello, artifact)}
    assert set(found) == {(COPY, "byte_rate"), (TRANSFER, "byte_rate"), (MULTIPLY_ADD, "flop_rate")}
    assert all(1e6 < one.median < 1e13 for one in found.values())
    assert all("accelerator cpu: some, 1 MHz" in one.note for one in found.values())


def test_kernels_of_a_step_are_timed_and_change_nothing(running: tuple[Linux, TorchProgram, Net]) -> None:
    device, program, _ = running
    assert program.training is not None
    before = checkpoint(device).variables
    found = {one.region.removeprefix("train.kernel/"): one.median for one in measure_kernels(device, program.training)}
    assert {"aten::relu", "aten::addmm", "aten::copy_"} <= found.keys(), "of layers and of copies"
    assert 0 < found["aten::addmm"] < sum(found.values()) < 10
    assert checkpoint(device).variables == before


def test_what_a_step_takes_lies_in_the_accelerators_own_memory(tmp_path: Path) -> None:
    program, _ = program_and_network()
    (tmp_path / "program.pt2").write_bytes(program.archive)
    loaded = payload_runner.Program(str(tmp_path / "program.pt2"), "cpu")
    handed = (loaded.sample(program.inputs.tobytes(), 1), loaded.label(2))
    there = loaded.copied_in(*handed)
    for one, copy in zip(handed, there, strict=True):
        assert torch.equal(one, copy)
        assert one.data_ptr() != copy.data_ptr()
    loss = loaded.loss(*there)
    back = loaded.copied_out(loss)
    assert (float(back), back.requires_grad) == (loss.item(), False)
    assert back.data_ptr() != loss.data_ptr()


def test_a_runner_that_cannot_load_its_program(tmp_path: Path, running: tuple[Linux, TorchProgram, Net]) -> None:
    """Last of all: it takes the device over."""
    device, program, _ = running
    damaged = TorchProgram(b"no archive", program.inputs, program.outputs, program.labels)
    with pytest.raises(Crash, match=r"the runner on desk ended with status 1"):
        device.deploy(artifact_of(damaged, "net", "linux-x86-64", tmp_path))


def test_a_device_without_python(tmp_path: Path) -> None:
    remote = DeskRemote(tmp_path)
    device = Linux(Identity("desk", "b", "hardware", "", frozenset()), RealMachine("desk", lambda: remote), "lab")
    program, _ = program_and_network()
    with pytest.raises(ConfigError, match="has no Python that runs PyTorch"):
        device.deploy(artifact_of(program, "net", "b", tmp_path))


# ---- variants --------------------------------------------------------------------------------------------------------


def prepared(program: TorchProgram | None) -> Prepared:
    none = np.zeros((0, 64), np.int8)
    offered = None if program is None else (lambda: program)
    return Prepared(
        tiny_workload.model(), Job("infer", b"", 0), Dataset("d", "", 0), none, 1, {}, lambda _: [], ("data", "more"),
        program=offered,
    )  # fmt: skip


def test_variants_by_name() -> None:
    assert split_variant("pytorch") == (True, "")
    assert split_variant("pytorch,image=16,rate=1") == (True, "image=16,rate=1")
    assert split_variant("speaker=theo") == (False, "speaker=theo")
    assert split_variant("") == (False, "")


def test_accelerators_by_name() -> None:
    assert split_accelerator("") == ("cpu", "")
    assert split_accelerator("image=16,accelerator=cuda,rate=1") == ("cuda", "image=16,rate=1")
    with pytest.raises(ConfigError, match="accelerator=tpu is not allowed") as refused:
        split_accelerator("accelerator=tpu")
    assert refused.value.hint == "one of cpu, cuda"


class OnAccelerators:
    """A device whose Python says what PyTorch can compute on there."""

    identity = Identity("box", "linux-x86-64", "hardware", "", frozenset())

    def __init__(self, accelerators: dict[str, str], lacking: str) -> None:
        self._found = PythonEnvironment("p", "3.11.2", "x86_64", {"torch": "2.8.0"}, accelerators, lacking)

    def python(self) -> PythonEnvironment:
        return self._found


def test_a_device_without_the_accelerator_says_what_was_found(desk: DeskRemote, tmp_path: Path) -> None:
    without = OnAccelerators({"cpu": "Some CPU, 2000 MHz"}, "/dev/nvidia0, and a PyTorch for CUDA (none)")
    with pytest.raises(NoAccelerator, match=r"box has no cuda for PyTorch 2\.8\.0: found /dev/nvidia0, and") as refused:
        require_accelerator(cast("Device", without), "cuda")
    assert "accelerator=cpu" in refused.value.hint
    require_accelerator(cast("Device", without), "cpu")
    present = OnAccelerators({"cpu": "Some CPU, 2000 MHz", "cuda": "Some GPU, 1980 MHz"}, "")
    require_accelerator(cast("Device", present), "cuda")
    program, _ = program_and_network()
    artifact = artifact_of(program, "net", "linux-x86-64", tmp_path, "cuda")
    assert named(artifact, cast("Device", present)).flags == "accelerator cuda: Some GPU, 1980 MHz"
    assert payload_command(desk, present.python(), artifact, str(desk.home))[-1] == "cuda"
    assert in_pytorch("net", prepared(program), "cuda")[0].parameters["accelerator"] == "cuda"
    here = environment_on(desk, PythonPayload(venv=sys.prefix), "/unused")
    assert here.accelerators["cpu"].endswith((" MHz", "clock unknown"))
    assert ("cuda" in here.accelerators) == (not here.lacking)


def test_a_workload_without_a_program() -> None:
    with pytest.raises(ConfigError, match="'tiny' has no program for PyTorch"):
        in_pytorch("tiny", prepared(None))


def test_outputs_and_losses_are_judged() -> None:
    program, _ = program_and_network()
    inference = TorchProgram(program.archive, program.inputs, program.outputs, program.labels)
    found, _ = in_pytorch("net", prepared(inference))
    assert (found.model.input.size, found.model.output.size, found.job.count) == (144, 12, 5)
    scores = {score.metric: score for score in found.check(found.reference_outputs)}
    assert scores["output_error"].value == 0.0
    assert scores["accuracy"].value == scores["accuracy"].reference
    off = (program.outputs + np.float32(0.01) * np.abs(program.outputs).max()).view(np.int8)
    with pytest.raises(WorkloadError, match=r"differs from PyTorch on this computer by 0.01"):
        found.check(off)
    trained, _ = in_pytorch("net", prepared(program))
    assert trained.training is not None
    inverted = (-np.abs(program.outputs)).astype(np.float32)
    inverted[np.arange(5), (program.labels + 1) % 3] = 1.0
    known = TorchProgram(
        program.archive, program.inputs, np.eye(3, dtype=np.float32)[program.labels], program.labels, program.training,
        np.ones(10, np.float32),
    )  # fmt: skip
    trained, _ = in_pytorch("net", prepared(known))
    with pytest.raises(WorkloadError, match=r"accuracy in PyTorch on the device is 0.00%"):
        trained.check(inverted.view(np.int8))
    assert trained.training is not None
    assert len(trained.training.check(np.ones(10, np.float32), {})) == 2
    with pytest.raises(WorkloadError, match="losses on the device differ"):
        trained.training.check(np.full(10, 1.1, np.float32), {})


class _Both:
    """The tiny workload, which also has a program for PyTorch."""

    id, title, family, systems = "both", "both", "inference", ()

    def prepare(self, cache: Path, variant: str = "") -> Prepared:
        program, _ = program_and_network()
        inference = TorchProgram(program.archive, program.inputs, program.outputs, program.labels)
        return replace(tiny_workload.WORKLOAD.prepare(cache), program=lambda: inference)


WORKLOAD = _Both()


@needs_host_compiler
def test_both_variants_of_a_device_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lab.workloads._REGISTRY, "both", __name__)
    (tmp_path / "bench.yaml").write_text(f"devices: {{me: {{board: host, python: {{venv: {sys.prefix}}}}}}}")
    found = load_bench(tmp_path / "bench.yaml").devices["me"]
    with connected(found, cache_dir()) as device, Store(tmp_path / "store") as store:
        runs = [
            measure(deploy(found, device, "both", cache_dir(), variant), store, "s").run for variant in ("", "pytorch")
        ]
    native, in_python = ({(one.region, one.metric): one.median for one in run.records} for run in runs)
    assert native["run", "peak_ram.process"] < in_python["run", "peak_ram.process"]
    assert in_python["inference", "latency"] > 0
    assert in_python["inference", "peak_ram.process"] > 50e6
    assert ("run", "flash") not in in_python
    assert f"torch {torch.__version__}" in runs[1].provenance.toolchain
    assert runs[1].provenance.variant == "pytorch"
    text = write_report(runs, {}, tmp_path / "report").read_text(encoding="utf-8")
    assert "pytorch" in text


def test_programs_are_named_by_their_content(tmp_path: Path) -> None:
    program, _ = program_and_network()
    first = artifact_of(program, "net", "b", tmp_path)
    assert first.path.read_bytes() == program.archive
    assert artifact_of(program, "net", "b", tmp_path) == first
    assert first.build_id == first.digest[:16]
    assert hashlib.sha256(program.archive).hexdigest() != first.digest, "the runner is part of what runs"
    assert torch.export.load(io.BytesIO(program.archive)) is not None
