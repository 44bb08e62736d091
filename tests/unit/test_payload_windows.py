"""Windows of many passes in the runner that is written in Python, a real process with a program of PyTorch."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.errors import LeaseLost, WorkloadError
from lab.events import Done, Event, Job, RegionEvent, ResultEvent
from lab.paths import project_root
from lab.training import training_job
from lab.transports.stdio import ProcessStream
from lab.wire import Session

COUNT, INPUTS, CLASSES, RATE, WINDOW = 3, 4, 2, 0.1, 7
random = np.random.default_rng(4)
SAMPLES = random.normal(size=(COUNT, INPUTS)).astype(np.float32)
LABELS = np.array([0, 1, 1], np.int32)
INFERENCES = Job("infer", SAMPLES.tobytes(), COUNT, warmup=0, quiet_us=1000)
TRAINING = replace(training_job(SAMPLES, LABELS, learning_rate=RATE), quiet_us=1000)


@pytest.fixture(scope="module")
def module() -> torch.nn.Linear:
    torch.manual_seed(2)
    return torch.nn.Linear(INPUTS, CLASSES)


@pytest.fixture(scope="module")
def session(module: torch.nn.Linear, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    path = tmp_path_factory.mktemp("program") / "linear.pt2"
    torch.export.save(torch.export.export(module, (torch.zeros(1, INPUTS),)), path)
    runner = project_root() / "lab" / "devices" / "payload_runner.py"
    command = [sys.executable, str(runner), str(path), "0123456789abcdef", "host", "linear", "cpu"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        stream = ProcessStream(process, "payload")
        try:
            opened = Session(stream)
            opened.open(60.0, ask=False)
            yield opened
        finally:
            stream.close()


def run(session: Session, job: Job) -> list[Event]:
    session.put_all(job.all_blobs)
    return list(session.run(job))


def regions(events: Sequence[Event]) -> list[tuple[str, int, int]]:
    return [(event.region, event.index, event.passes) for event in events if isinstance(event, RegionEvent)]


def parameters(session: Session) -> dict[str, bytes]:
    events = run(session, Job("parameters", b"", 0, warmup=0))
    return {event.name: event.data for event in events if isinstance(event, ResultEvent)}


def test_inferences_share_a_window(session: Session) -> None:
    events = run(session, replace(INFERENCES, window=WINDOW, repeats=2))
    assert regions(events) == [("inference", 0, WINDOW), ("inference", 1, WINDOW)]
    assert isinstance(events[-1], Done)
    assert (events[-1].events, events[-1].results) == (2, 0)
    assert regions(run(session, INFERENCES)) == [("inference", index, 1) for index in range(COUNT)]


def test_the_quiet_is_slept_through(session: Session) -> None:
    events = [event for event in run(session, replace(INFERENCES, sleep=True)) if isinstance(event, RegionEvent)]
    idle = [event for event in events if event.region == "idle"]
    assert [event.index for event in idle] == [0, 1]
    assert min(event.cycles for event in idle) >= 1_000_000
    assert events[0] is idle[0]
    assert events[-1] is idle[1]


def test_steps_in_a_window_learn_as_steps_by_themselves_do(session: Session, module: torch.nn.Linear) -> None:
    run(session, Job("forget", b"", 0, warmup=0))
    assert regions(run(session, replace(TRAINING, window=WINDOW))) == [("train.step", 0, WINDOW)]
    trained = torch.nn.Linear(INPUTS, CLASSES)
    trained.load_state_dict(module.state_dict())
    for step in range(WINDOW):
        sample, label = torch.tensor(SAMPLES[step % COUNT]), torch.tensor(LABELS[step % COUNT], dtype=torch.int64)
        loss = torch.nn.functional.cross_entropy(trained(sample), label)
        gradients = torch.autograd.grad(loss, list(trained.parameters()))
        with torch.no_grad():
            for tensor, gradient in zip(trained.parameters(), gradients, strict=True):
                tensor.sub_(RATE * gradient)
    learnt = parameters(session)
    for name, value in trained.named_parameters():
        assert np.frombuffer(learnt[name], np.float32) == pytest.approx(value.detach().numpy().ravel(), abs=1e-6)
    forward = replace(TRAINING, window=WINDOW, parameters={**TRAINING.parameters, "forward": 1})
    assert regions(run(session, forward)) == [("train.forward", 0, WINDOW)]
    assert parameters(session) == learnt


def test_a_loss_that_is_no_number_ends_a_window(session: Session) -> None:
    poisoned = SAMPLES.copy()
    poisoned[1] = np.nan
    with pytest.raises(WorkloadError, match="step 1, sample 1: the loss is nan"):
        run(session, replace(TRAINING, blob=poisoned.tobytes(), window=WINDOW))


class Ticket:
    """A lease that its process believes in."""

    def __init__(self, token: int) -> None:
        self.token = token

    def check(self) -> None:
        pass


def test_an_older_lease_is_refused(session: Session) -> None:
    older, newer = (Session(session._stream, fence=Ticket(token)) for token in (2**40, 2**40 + 1))
    older.open(60.0)
    newer.open(60.0)
    for use in (older.reset, lambda: older.put("samples", b""), older.open):
        with pytest.raises(LeaseLost, match=f"has been used with token {2**40 + 1} since"):
            use()
    assert regions(run(newer, INFERENCES)) == [("inference", index, 1) for index in range(COUNT)]
    session.open(60.0)
    assert regions(run(session, INFERENCES)) == [("inference", index, 1) for index in range(COUNT)]
