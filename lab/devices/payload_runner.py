"""The runner of docs/wire.md in Python: runs a program of torch.export on a device.

This file is sent to the device and needs nothing there but PyTorch (no package of the lab). Standard input and output
are the line. Usage: ``payload_runner.py PROGRAM BUILD_ID BOARD MODEL cpu|cuda``.

Parameters are moved to the accelerator once. A step copies its sample and label there and its loss back, in regions of
their own, on a processor as on a GPU: there these copies stay in one memory. Regions are timed by the monotonic clock,
on a GPU by CUDA events, with nothing left to do on either side. A profiled pass runs once more for its peaks of
memory: of the process (VmHWM, set back before it by /proc/self/clear_refs) and of the GPU
(torch.cuda.max_memory_allocated).
"""

from __future__ import annotations

import os
import struct
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
MTU = 32768
CREDITS = 8
CHUNK = 900
BLOB_BYTES = 1 << 30
CLOCK_HZ = 1_000_000_000
PROFILE = 1
SLEEP = 4
PROBE_BYTES = {"cpu": 1 << 26, "cuda": 1 << 28}
PROBE_SIDE = {"cpu": 512, "cuda": 4096}
"""What the peaks are found with: bytes of a copy, beyond most caches, and rows of the matrices that are multiplied."""
MAGIC = b"labckpt1"
HEAD = struct.Struct("<8s16sIIII")

Message = dict[str, Any]


# ---- frames: COBS(CBOR, CRC-32) and a zero --------------------------------------------------------------------------


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing, without the closing zero."""
    encoded = bytearray()
    pieces = data.split(b"\0")
    for number, piece in enumerate(pieces):
        while len(piece) >= 254:
            encoded += b"\xff" + piece[:254]
            piece = piece[254:]
            if not piece and number == len(pieces) - 1:
                return bytes(encoded)
        encoded += bytes((len(piece) + 1,)) + piece
    return bytes(encoded)


def cobs_decode(data: bytes) -> bytes | None:
    """The bytes behind a stuffed frame; None where it is none."""
    decoded = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        if code == 0 or at + code > len(data):
            return None
        decoded += data[at + 1 : at + code]
        at += code
        if code != 255 and at < len(data):
            decoded.append(0)
    return bytes(decoded)


def cbor_head(major: int, value: int) -> bytes:
    """Type and argument (RFC 8949, 3)."""
    if value < 24:
        return bytes((major << 5 | value,))
    for info, code, limit in ((24, ">B", 1 << 8), (25, ">H", 1 << 16), (26, ">I", 1 << 32), (27, ">Q", 1 << 64)):
        if value < limit:
            return bytes((major << 5 | info,)) + struct.pack(code, value)
    raise ValueError(value)


def cbor_encode(value: Any) -> bytes:
    """What the protocol's messages are made of: maps, text, bytes, integers, floats."""
    if isinstance(value, int):
        return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return cbor_head(2, len(value)) + value
    if isinstance(value, str):
        text = value.encode()
        return cbor_head(3, len(text)) + text
    pairs = [cbor_encode(key) + cbor_encode(item) for key, item in value.items()]
    return cbor_head(5, len(pairs)) + b"".join(pairs)


def cbor_decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """The value at a place and where it ends; raises ValueError or struct.error for what is not of the protocol."""
    major, info = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        code, size = {25: (">e", 2), 26: (">f", 4), 27: (">d", 8)}.get(info, ("", 0))
        if not size:
            simple = {20: False, 21: True, 22: None}
            if info not in simple:
                raise ValueError(info)
            return simple[info], at
        return struct.unpack_from(code, data, at)[0], at + size
    argument = info
    if info > 23:
        code, size = {24: (">B", 1), 25: (">H", 2), 26: (">I", 4), 27: (">Q", 8)}[info]
        argument, at = struct.unpack_from(code, data, at)[0], at + size
    if major == 0:
        return argument, at
    if major == 1:
        return -1 - argument, at
    if major in (2, 3):
        piece = data[at : at + argument]
        if len(piece) < argument:
            raise ValueError("cut off")
        return (piece if major == 2 else piece.decode()), at + argument
    if major != 5:
        raise ValueError(major)
    found = {}
    for _ in range(argument):
        key, at = cbor_decode(data, at)
        found[key], at = cbor_decode(data, at)
    return found, at


def decode_frame(encoded: bytes) -> Message | None:
    """The message of a frame without its zero; None where it is damaged."""
    raw = cobs_decode(encoded)
    if raw is None or len(raw) < 5 or zlib.crc32(raw[:-4]).to_bytes(4, "little") != raw[-4:]:
        return None
    try:
        message, end = cbor_decode(raw[:-4])
    except (ValueError, KeyError, IndexError, struct.error, UnicodeDecodeError):
        return None
    return message if end == len(raw) - 4 and isinstance(message, dict) else None


class Refused(Exception):
    """A job or frame that is answered with an error of the protocol."""

    def __init__(self, code: str, place: str, words: str) -> None:
        super().__init__(words)
        self.code, self.place, self.words = code, place, words


class Line:
    """The device's end of a session."""

    def __init__(self, source: BinaryIO, sink: BinaryIO, greeting: Message) -> None:
        self._source, self._sink, self._greeting = source, sink, greeting
        self._next = 0
        self.last_accepted = 0
        self.events = self.results = 0

    @property
    def descriptor(self) -> int:
        """Of what is written to."""
        return self._sink.fileno()

    def frames(self) -> Iterator[Message]:
        """Messages as they arrive, to the end of the input."""
        pending = b""
        while data := os.read(self._source.fileno(), 65536):
            *pieces, pending = (pending + data).split(b"\0")
            for piece in pieces:
                message = decode_frame(piece) if piece else None
                if message is not None:
                    yield message

    def unsequenced(self, message: Message) -> None:
        """Send a message as it is."""
        payload = cbor_encode(message)
        self._sink.write(cobs_encode(payload + zlib.crc32(payload).to_bytes(4, "little")) + b"\0")
        self._sink.flush()

    def send(self, kind: str, **fields: Any) -> None:
        """Send a message with the next sequence number."""
        self.unsequenced({"t": kind, "s": self._next, **fields})
        self._next += 1

    def greet(self) -> None:
        """Begin a session."""
        self._next = self.last_accepted = 0
        self.send("hello", **self._greeting)

    def accept(self, number: int) -> None:
        """Acknowledge a frame."""
        self.last_accepted = number
        self.unsequenced({"t": "ack", "a": number})

    def event(self, region: str, index: int, begin: int, end: int, **metric: Any) -> None:
        """A pass through a region, nanoseconds."""
        self.send("event", r=region, i=index, b=begin, e=end, **metric)
        self.events += 1

    def result(self, index: int, data: bytes, name: str = "") -> None:
        """A result tensor, in pieces where it is long."""
        named = {"n": name} if name else {}
        for at in range(0, max(len(data), 1), CHUNK):
            place = {"o": at, "z": len(data)} if len(data) > CHUNK else {}
            self.send("result", i=index, d=data[at : at + CHUNK], **named, **place)
        self.results += 1


# ---- the program ----------------------------------------------------------------------------------------------------


class Program:
    """A program of torch.export, its variables, and how its passes are timed."""

    def __init__(self, path: str, device: str) -> None:
        import torch

        self.torch = torch
        self.device = torch.device(device)
        # Float32 all through: TF32 would be other arithmetic than what results and peaks are compared with.
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        program = torch.export.load(path)
        self._module = program.module().to(self.device)
        # PyTorch 2.9 and 2.10 load every parameter as one to be trained; the graph still tells which are.
        inputs = program.graph_signature.inputs_to_parameters
        nodes = [node for node in program.graph.nodes if node.name in inputs]
        trained = {inputs[node.name] for node in nodes if node.meta["val"].requires_grad}
        for name, tensor in self._module.named_parameters():
            tensor.requires_grad_(name in trained)
        self._shape = tuple(program.example_inputs[0][0].shape)
        self._initial = {name: tensor.detach().clone() for name, tensor in self._module.named_parameters()}
        self.steps = 0

    @property
    def input_bytes(self) -> int:
        """Of one sample."""
        size = 4
        for extent in self._shape[1:]:
            size *= extent
        return size

    def sample(self, blob: bytes, index: int) -> Tensor:
        """A sample of a blob of float32, with a batch of one, in the memory of the processor."""
        piece = bytearray(blob[index * self.input_bytes : (index + 1) * self.input_bytes])
        return self.torch.frombuffer(piece, dtype=self.torch.float32).reshape((1, *self._shape[1:]))

    def label(self, label: int) -> Tensor:
        """A class, with a batch of one, in the memory of the processor."""
        return self.torch.tensor([label])

    def copied_in(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Copies in the accelerator's memory."""
        return tuple(one.to(self.device, copy=True) for one in tensors)

    def copied_out(self, tensor: Tensor) -> Tensor:
        """A copy in the memory of the processor."""
        return tensor.detach().to("cpu", copy=True)

    def timed(self, work: Callable[[], Any]) -> tuple[Any, int, int]:
        """What work yields, and when it began and ended, ns: by CUDA's events where it runs on a GPU."""
        if self.device.type != "cuda":
            begin = time.monotonic_ns()
            value = work()
            return value, begin, time.monotonic_ns()
        cuda = self.torch.cuda
        first, last = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        cuda.synchronize()
        begin = time.monotonic_ns()
        first.record()
        value = work()
        last.record()
        cuda.synchronize()
        return value, begin, begin + round(1e6 * first.elapsed_time(last))

    def profiled(self, work: Callable[[], Any]) -> dict[str, float]:
        """Seconds of work by kernel; on a processor by operator, without those that it calls in turn."""
        profiler, is_cuda = self.torch.profiler, self.device.type == "cuda"
        kinds = [profiler.ProfilerActivity.CPU, *([profiler.ProfilerActivity.CUDA] if is_cuda else [])]
        with profiler.profile(activities=kinds) as profile:
            work()
            if is_cuda:
                self.torch.cuda.synchronize()
        found: dict[str, float] = {}
        for one in profile.events():
            if one.device_type.name == self.device.type.upper():
                taken = one.self_device_time_total if is_cuda else one.self_cpu_time_total
                found[one.name] = found.get(one.name, 0.0) + 1e-6 * taken
        return found

    def infer(self, sample: Tensor) -> Tensor:
        """One inference."""
        with self.torch.inference_mode():
            output: Tensor = self._module(sample)
            return output

    def loss(self, sample: Tensor, label: Tensor) -> Tensor:
        """The loss of one sample; both in the accelerator's memory."""
        return self.torch.nn.functional.cross_entropy(self._module(sample), label)

    def probes(self) -> Iterator[tuple[str, str, int, Callable[[], Any]]]:
        """What finds the peaks: region, what is counted, how much of it a pass does, and the pass."""
        torch, kind, side = self.torch, self.device.type, PROBE_SIDE[self.device.type]
        size = PROBE_BYTES[kind]
        there, other = (torch.ones(size // 4, device=self.device) for _ in range(2))
        yield "peak.copy", "bytes", 2 * size, partial(there.copy_, other)
        host = torch.ones(size // 4)
        yield "peak.transfer", "bytes", size, partial(there.copy_, host)
        del there, other, host
        left, right, product = (torch.ones(side, side, device=self.device) for _ in range(3))
        yield "peak.multiply_add", "flop", 2 * side**3, partial(torch.mm, left, right, out=product)

    def update(self, rate: float) -> None:
        """One step of gradient descent; gradients are gone afterwards."""
        with self.torch.no_grad():
            for tensor in self._module.parameters():
                if tensor.grad is not None:
                    tensor.sub_(rate * tensor.grad)
                    tensor.grad = None

    def forget(self) -> None:
        """Variables as exported."""
        self.steps = 0
        with self.torch.no_grad():
            for name, tensor in self._module.named_parameters():
                tensor.copy_(self._initial[name])
                tensor.grad = None

    def variables(self) -> dict[str, bytes]:
        """Raw float32 of every parameter, by name."""
        return {name: self.raw(tensor) for name, tensor in self._module.named_parameters()}

    def restore(self, data: bytes) -> None:
        """Every parameter from its bytes, back to back."""
        at = 0
        with self.torch.no_grad():
            for tensor in self._module.parameters():
                size = 4 * tensor.numel()
                piece = self.torch.frombuffer(bytearray(data[at : at + size]), dtype=self.torch.float32)
                tensor.copy_(piece.reshape(tensor.shape))
                at += size

    def raw(self, tensor: Tensor) -> bytes:
        """The bytes of a tensor, float32."""
        array = tensor.detach().to("cpu", self.torch.float32).contiguous().flatten()
        return bytes(array.untyped_storage())[: 4 * array.numel()]


# ---- memory ---------------------------------------------------------------------------------------------------------


def peak_process_bytes() -> int:
    """VmHWM: the most memory of this process since it was set back."""
    with open("/proc/self/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return 0


def with_peaks(program: Program, region: str, work: Callable[[], Any], line: Line) -> Any:
    """Run work once for its peaks of memory, and report them as metrics of a region."""
    cuda = program.torch.cuda if program.device.type == "cuda" else None
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as setter:
            setter.write("5")
    except OSError:
        # Then the peak is that since the start, which is what the process took all the same.
        line.send("log", m="VmHWM cannot be set back: peaks of memory are those since the start")
    if cuda is not None:
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
    value = work()
    if cuda is not None:
        cuda.synchronize()
        line.send("metric", n=f"{region}/peak_ram.gpu", v=int(cuda.max_memory_allocated()))
    line.send("metric", n=f"{region}/peak_ram.process", v=peak_process_bytes())
    return value


# ---- jobs -----------------------------------------------------------------------------------------------------------


class Runner:
    """Blobs and jobs."""

    def __init__(self, program: Program, line: Line, build_id: str) -> None:
        self._program, self._line, self._build_id = program, line, build_id
        self._blobs: dict[str, bytearray] = {}
        self._newest_token = 0
        self._jobs: dict[str, Callable[[Message], None]] = {
            "infer": self._infer,
            "train": self._train,
            "parameters": self._parameters,
            "restore": self._restore,
            "forget": lambda _: program.forget(),
            "peaks": self._peaks,
            "kernels": self._kernels,
        }

    def serve(self) -> None:
        """Answer frames until the input ends."""
        self._line.greet()
        for message in self._line.frames():
            self._handle(message)

    def _handle(self, message: Message) -> None:
        kind, number = message.get("t"), message.get("s")
        token = message.get("tk", self._newest_token)
        if token < self._newest_token:
            refusal = {"t": "error", "c": "stale-lease", "p": "lease", "m": "a newer lease has used this device"}
            self._line.unsequenced({**refusal, "a": number, "tk": token, "n": self._newest_token})
            return
        self._newest_token = token
        if kind == "hello":
            self._line.greet()
        elif number == self._line.last_accepted:
            self._line.accept(number)
        elif number != self._line.last_accepted + 1:
            self._refuse(number, Refused("sequence", "frame", "this is not the next number"))
        else:
            try:
                self._execute(str(kind), message, number)
            except Refused as refused:
                self._refuse(number, refused)

    def _refuse(self, number: Any, refused: Refused) -> None:
        self._line.send("error", c=refused.code, p=refused.place, m=refused.words, a=number)

    def _execute(self, kind: str, message: Message, number: int) -> None:
        if kind == "put":
            self._put(message)
            self._line.accept(number)
        elif kind == "run":
            self._line.accept(number)
            self._run(message)
        elif kind == "reset":
            self._line.accept(number)
            # The line goes back to where the next one looks for it.
            os.dup2(self._line.descriptor, 1)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
        else:
            raise Refused("unknown", "frame", "no such message type")

    def _put(self, message: Message) -> None:
        blob = self._blobs.setdefault(message["n"], bytearray())
        if message.get("o") == 0:
            blob.clear()
        if message.get("o") != len(blob) or len(blob) + len(message["d"]) > message["z"]:
            raise Refused("size", "put", "the blob does not fit, or the chunk does not continue it")
        blob += message["d"]

    def _run(self, message: Message) -> None:
        self._line.events = self._line.results = 0
        begin = time.monotonic_ns()
        job = self._jobs.get(message.get("j", ""))
        out_of_memory = (MemoryError, self._program.torch.cuda.OutOfMemoryError)
        try:
            if job is None:
                raise Refused("unknown", "run", "this program has no such job")
            job(message)
        except Refused as refused:
            self._line.send("error", c=refused.code, p=refused.place, m=refused.words)
            return
        except out_of_memory as error:
            self._line.send("error", c="overflow", p="python", m=str(error)[:300] or "out of memory")
            return
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
            # What PyTorch raises where a program and its samples do not fit together.
            # Of memory that is refused to it, PyTorch says only in words that it is that.
            code = "overflow" if "allocate memory" in str(error) else "crash"
            self._line.send("error", c=code, p="python", m=f"{type(error).__name__}: {str(error)[:300]}")
            return
        cycles = time.monotonic_ns() - begin
        self._line.send("done", y=0, a=0, c=cycles, n=self._line.events, x=self._line.results)

    def _blob(self, name: str, least: int) -> bytes:
        blob = bytes(self._blobs.get(name, b""))
        if len(blob) < max(least, 1):
            raise Refused("input", name, f"the blob has {len(blob)} bytes; {least} are needed")
        return blob

    def _infer(self, message: Message) -> None:
        program, count = self._program, message["c"]
        samples = self._blob(message["n"], count * program.input_bytes)
        (first,) = program.copied_in(program.sample(samples, 0))
        for _ in range(message["w"]):
            program.infer(first)
        window = message.get("window", 0)
        self._quiet(message, 0)
        if window:
            each = program.copied_in(*(program.sample(samples, index) for index in range(count)))
            self._windows(message, "inference", lambda step: program.infer(each[step % count]))
        for index in () if window else range(count):
            (sample,) = program.copied_in(program.sample(samples, index))
            work = partial(program.infer, sample)
            for left in reversed(range(message["r"])):
                output, begin, end = program.timed(work)
                self._line.event("inference", index, begin, end)
                if left == 0:
                    self._line.result(index, program.raw(output))
        self._quiet(message, 1)
        if message["f"] & PROFILE:
            with_peaks(program, "inference", lambda: program.infer(first), self._line)

    def _train(self, message: Message) -> None:
        program, count, repeats = self._program, message["c"], message["r"]
        rate = message["lr"]
        samples = self._blob(message["n"], count * program.input_bytes)
        targets = struct.unpack_from(f"<{count}i", self._blob("targets", 4 * count))
        labels = [program.label(one) for one in targets]
        order = list(range(count)) * repeats
        if message.get("order"):
            order = list(struct.unpack_from(f"<{count * repeats}H", self._blob("order", 2 * count * repeats)))
        self._quiet(message, 0)
        if message.get("window", 0):
            self._training_windows(message, [program.sample(samples, index) for index in range(count)], labels)
        for step, index in () if message.get("window", 0) else enumerate(order):
            self._step(step, program.sample(samples, index), labels[index], rate)
        self._quiet(message, 1)
        if message["f"] & PROFILE:
            self._peaks_of_step(program.sample(samples, 0), labels[0], rate)

    def _quiet(self, message: Message, index: int) -> None:
        """The quiet before (0) and after (1) all regions, in which this process sleeps."""
        begin = time.monotonic_ns()
        time.sleep(message.get("q", 0) * 1e-6)
        if message["f"] & SLEEP:
            self._line.event("idle", index, begin, time.monotonic_ns())

    def _windows(self, message: Message, region: str, work: Callable[[int], Any]) -> None:
        """Regions of many passes each, with nothing sent between them; ``work`` takes the pass's number."""
        passes = message["window"]

        def all_passes() -> None:
            for step in range(passes):
                work(step)

        for index in range(message["r"]):
            _, begin, end = self._program.timed(all_passes)
            self._line.event(region, index, begin, end, c=passes)

    def _training_windows(self, message: Message, samples: list[Tensor], labels: list[Tensor]) -> None:
        """Whole steps, or forwards alone; each step goes on from the one before."""
        program, rate, forward_only = self._program, message["lr"], bool(message.get("forward"))

        def step(number: int) -> None:
            at = number % len(samples)
            loss = program.loss(*program.copied_in(samples[at], labels[at]))
            value = float(program.copied_out(loss))
            if value - value != 0.0:
                raise Refused("nan", "train.forward", f"step {number}, sample {at}: the loss is {value}")
            if not forward_only:
                program.steps += 1
                program.torch.autograd.backward(loss)
                program.update(rate)

        self._windows(message, "train.forward" if forward_only else "train.step", step)

    def _step(self, step: int, sample: Tensor, label: Tensor, rate: float) -> None:
        program, line = self._program, self._line
        program.steps += 1
        there, begin, end = program.timed(lambda: program.copied_in(sample, label))
        line.event("train.copy_in", step, begin, end)
        loss, *forward = program.timed(lambda: program.loss(*there))
        # The loss is read before anything changes: one that is no number ends the job.
        back, begin, end = program.timed(lambda: program.copied_out(loss))
        value = float(back)
        line.event("train.forward", step, *forward, n="loss", v=value)
        if value - value != 0.0:
            raise Refused("nan", "train.forward", f"step {step}: the loss is {value}")
        line.event("train.copy_out", step, begin, end)
        _, begin, end = program.timed(partial(program.torch.autograd.backward, loss))
        line.event("train.backward", step, begin, end)
        _, begin, end = program.timed(lambda: program.update(rate))
        line.event("train.update", step, begin, end)

    def _peaks_of_step(self, sample: Tensor, label: Tensor, rate: float) -> None:
        program, line = self._program, self._line
        program.steps += 1
        there = program.copied_in(sample, label)
        loss = with_peaks(program, "train.forward", lambda: program.loss(*there), line)
        with_peaks(program, "train.backward", partial(program.torch.autograd.backward, loss), line)
        with_peaks(program, "train.update", lambda: program.update(rate), line)

    def _peaks(self, message: Message) -> None:
        """Windows of as many passes of each probe as take ``least`` microseconds, found by doubling."""

        def window(work: Callable[[], Any], passes: int) -> tuple[int, int]:
            _, begin, end = self._program.timed(lambda: [work() for _ in range(passes)])
            return begin, end

        for region, counted, per_pass, work in self._program.probes():
            work()
            passes = 1
            while (taken := window(work, passes))[1] - taken[0] < 1000 * message["least"]:
                passes *= 2
            self._line.send("metric", n=f"{region}/{counted}", v=per_pass)
            for index in range(message["r"]):
                self._line.event(region, index, *window(work, passes), c=passes)

    def _kernels(self, message: Message) -> None:
        """Steps on the first sample under PyTorch's profiler: what each kernel took of one."""
        program = self._program
        sample = program.sample(self._blob(message["n"], program.input_bytes), 0)
        label = program.label(*struct.unpack_from("<i", self._blob("targets", 4)))

        def steps() -> None:
            for _ in range(message["r"]):
                program.torch.autograd.backward(program.loss(*program.copied_in(sample, label)))
                program.update(message["lr"])

        for name, seconds in program.profiled(steps).items():
            self._line.send("metric", n=f"train.kernel/{name}/kernel_time", v=seconds / message["r"])

    def _parameters(self, _: Message) -> None:
        variables = self._program.variables()
        for index, (name, data) in enumerate(variables.items()):
            self._line.result(index, data, name)
        data = b"".join(variables.values())
        head = (MAGIC, self._build_id.encode(), len(data), zlib.crc32(data), self._program.steps, 1)
        self._line.result(len(variables), HEAD.pack(*head), "lab.checkpoint")

    def _restore(self, _: Message) -> None:
        blob = self._blob("checkpoint", HEAD.size)
        _, build_id, size, check, steps, _ = HEAD.unpack_from(blob)
        data = blob[HEAD.size :]
        if build_id.decode(errors="replace") != self._build_id or (len(data), zlib.crc32(data)) != (size, check):
            raise Refused("input", "checkpoint", "it belongs to another program, or is damaged")
        self._program.restore(data)
        self._program.steps = steps


def die(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say why and end at once: PyTorch takes long to be cleaned up, and the other end waits for the status."""
    traceback.print_exception(kind, error, trace)
    sys.stderr.flush()
    os._exit(1)


def main() -> None:
    """Load the program, then serve."""
    sys.excepthook = die
    path, build_id, board, model, device = sys.argv[1:]
    # The line is the process's own: what a library prints must not get into it.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    program = Program(path, device)
    greeting = {
        "v": VERSION, "b": build_id, "d": board, "k": "monotonic", "h": CLOCK_HZ, "u": MTU, "cr": CREDITS,
        "ba": 0, "bs": BLOB_BYTES, "ar": 0, "st": 0, "mo": model,
    }  # fmt: skip
    line = Line(sys.stdin.buffer, sink, greeting)
    Runner(program, line, build_id).serve()


if __name__ == "__main__":
    main()
