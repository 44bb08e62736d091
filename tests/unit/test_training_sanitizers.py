"""Generated training code and its kernels under the address, undefined-behaviour and thread sanitizers.

The program trains the same model twice, in two threads that share nothing but the runtime, in buffers of exact size.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lab.compiler.channels import Channels
from lab.compiler.host import HostTraining
from lab.compiler.model import CompiledModel
from lab.compiler.operations.block_sparse import Renewal
from lab.compiler.operations.optimizer import Adam, Sgd, SgdMomentum
from lab.compiler.operations.perturbation import Perturbation
from lab.compiler.operations.replay import Replay
from lab.compiler.perturbed import compile_perturbed
from lab.compiler.training import Precision, Selection, compile_training
from lab.compiler.training_passes.block_sparse import Blocks
from lab.runtime_files import RUNTIME, needed_sources

STEPS = 4
RATE = 0.05
SEED = 7
CLASSES = 3
SANITIZERS = {
    "address": ("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "thread": ("-fsanitize=thread",),
}

# Odd steps take the profiled schedule: it must do the same.
MAIN = """
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "lab_model.h"
extern const lab_model_t lab_model_one, lab_model_two;
typedef struct { const lab_model_t *model; const uint8_t *data; uint32_t steps, hooks; } run_t;
static void hook(void *context, uint32_t step, uint32_t edge)
{
    (void)step, (void)edge;
    ((run_t *)context)->hooks++;
}
static void *copied(const uint8_t **data, uint32_t bytes)
{
    void *copy = malloc(bytes);
    if (copy == NULL) { exit(4); }
    memcpy(copy, *data, bytes);
    *data += bytes;
    return copy;
}
static void *train(void *argument)
{
    run_t *const run = argument;
    const lab_model_t *const model = run->model;
    const lab_training_t *const training = model->training;
    const uint8_t *data = run->data;
    uint8_t *const arena = malloc(model->arena_bytes);
    void *const output = malloc(model->output_bytes);
    lab_training_state_t state = {RATE, 0, SEED};
    if (arena == NULL || output == NULL) { exit(4); }
    lab_training_reset(training);
    for (uint32_t step = 0; step < run->steps; step++) {
        void *const sample = copied(&data, model->input_bytes);
        void *const target = copied(&data, training->target_bytes);
        state.step++;
        if (step % 2 != 0) {
            training->step_profiled(sample, target, output, arena, &state, hook, run);
        } else if (training->learn != NULL) {
            training->learn(sample, target, output, arena, &state);
        } else {
            training->forward(sample, target, output, arena);
            training->backward(sample, target, arena, &state);
            if (training->update != NULL) { training->update(arena, &state); }
        }
        model->infer(sample, output, arena);
        free(sample);
        free(target);
    }
    free(output);
    free(arena);
    return NULL;
}
int main(void)
{
    const uint32_t size = lab_model_one.input_bytes + lab_model_one.training->target_bytes;
    uint8_t *const data = malloc(STEPS * size);
    run_t runs[2] = {{&lab_model_one, data, STEPS, 0}, {&lab_model_two, data, STEPS, 0}};
    pthread_t threads[2];
    if (data == NULL || fread(data, size, STEPS, stdin) != STEPS) { return 5; }
    for (int i = 0; i < 2; i++) { if (pthread_create(threads + i, NULL, train, runs + i) != 0) { return 6; } }
    for (int i = 0; i < 2; i++) { pthread_join(threads[i], NULL); }
    for (int i = 0; i < 2; i++) {
        const lab_training_t *const training = runs[i].model->training;
        if (runs[i].hooks != 2 * training->step_count * (STEPS / 2)) { return 7; }
        for (uint32_t v = 0; v < training->variable_count; v++) {
            fwrite(training->variables[v].data, 1, training->variables[v].bytes, stdout);
        }
    }
    free(data);
    return 0;
}
"""


@dataclass(frozen=True)
class Case:
    """What is trained, and how."""

    network: Callable[[], nn.Module]
    shape: tuple[int, ...]
    precision: Precision
    optimizer: Sgd | SgdMomentum | Adam
    immediate: bool = True
    train: Selection = lambda _name, _parameter: True
    blocks: Mapping[str, Blocks] = field(default_factory=dict)
    replay: Replay | None = None
    group: int = 1
    perturbation: Perturbation | None = None

    def compiled(self) -> CompiledModel:
        torch.manual_seed(3)
        if self.perturbation is not None:
            return compile_perturbed(
                self.network().eval(), torch.randn(1, *self.shape), loss=nn.functional.cross_entropy,
                train=self.train, perturbation=self.perturbation,
            ).compiled  # fmt: skip
        return compile_training(
            self.network().eval(),
            torch.randn(1, *self.shape),
            loss=nn.functional.cross_entropy,
            train=self.train,
            optimizer=self.optimizer,
            immediate=self.immediate,
            precision=self.precision,
            calibration=torch.randn(8, *self.shape) if self.precision == "int8" else None,
            blocks=self.blocks,
            replay=self.replay,
            group=self.group,
        ).compiled


def residual() -> nn.Module:
    """Odd sizes everywhere: dense, depthwise and strided convolutions, pooling, a classifier."""
    return nn.Sequential(
        nn.Conv2d(2, 7, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(7, 7, 3, padding=1, groups=7), nn.ReLU6(),
        nn.Conv2d(7, 5, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, CLASSES),
    )  # fmt: skip


def normalised() -> nn.Module:
    """Layers that int8 does not have."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.GroupNorm(2, 6), nn.GELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 9, 9),
        nn.LayerNorm(9), nn.Tanh(), nn.Linear(9, CLASSES),
    )  # fmt: skip


def flat() -> nn.Module:
    """Linear layers whose inputs come in blocks of four."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, CLASSES)
    )


def mapped() -> nn.Module:
    """Convolutions whose input channels come in blocks of four, one with a tap that meets padding alone."""
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 4, (1, 3), padding=(0, 3), dilation=(1, 3)), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES),
    )  # fmt: skip


CASES = {
    "float32": Case(residual, (2, 9, 9), "float32", Sgd()),
    "float32 norms, Adam": Case(normalised, (2, 9, 9), "float32", Adam()),
    "float32 momentum, updates at the end": Case(residual, (2, 9, 9), "float32", SgdMomentum(0.9), immediate=False),
    "float32 blocks that move": Case(flat, (2, 8, 8), "float32", Sgd(), blocks={
        "1.weight": Blocks(5, changed=0.5, renewal=Renewal(1)), "3.weight": Blocks(3, changed=0.5),
    }),
    "float32 blocks of convolutions": Case(mapped, (4, 7, 7), "float32", Sgd(), blocks={
        "0.weight": Blocks(1, changed=0.5), "2.weight": Blocks(1, changed=0.5, renewal=Renewal(1)),
    }),
    "float32 blocks by task, replayed logits, groups of steps": Case(flat, (2, 8, 8), "float32", Sgd(), blocks={
        "1.weight": Blocks(5, changed=0.5, renewal=Renewal(1, 20, 3, 1, 3)),
    }, replay=Replay(3, 1, 0.5, 0.5, 1), group=3),
    "float32 without a backward pass": Case(
        residual, (2, 9, 9), "float32", Sgd(), perturbation=Perturbation(3, 2**-6)
    ),
    "int8": Case(residual, (2, 9, 9), "int8", Sgd()),
    "int8 slices, updates at the end": Case(residual, (2, 9, 9), "int8", Sgd(), immediate=False, train={
        "2.weight": Channels(inputs=[1, 2, 3, 5]), "4.weight": Channels(range(1, 6), range(3)), "4.bias": None,
        "8.weight": None,
    }),
}  # fmt: skip


def data_of(model: CompiledModel, shape: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Samples as the model takes them, and labels."""
    generator = np.random.default_rng(5)
    samples = generator.standard_normal((STEPS, *shape[1:], shape[0])).astype(np.float32)
    inputs = model.input.quantize(samples) if model.input.dtype == "int8" else samples
    labels = generator.integers(0, CLASSES, (STEPS, 1)).astype(np.int32)
    return list(zip(inputs, labels, strict=True))


@pytest.mark.parametrize(
    ("name", "sanitizer"), [*((name, "address") for name in CASES), ("float32", "thread"), ("int8", "thread")]
)
def test_training_is_clean_and_the_same(name: str, sanitizer: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.compiled()
    data = data_of(model, case.shape)
    for file, text in {**model.sources, "main.c": MAIN}.items():
        (tmp_path / file).write_text(text)
    flags = ["-std=c11", "-O0", "-D_GNU_SOURCE", "-ffp-contract=off", *SANITIZERS[sanitizer], f"-I{RUNTIME}",
             f"-DSTEPS={STEPS}u", f"-DRATE={RATE}f", f"-DSEED={SEED}u"]  # fmt: skip
    for copy in ("one", "two"):
        subprocess.run(["gcc", *flags, f"-Dlab_model=lab_model_{copy}", "-c", "model.c", "-o", f"{copy}.o"],
                       cwd=tmp_path, check=True)  # fmt: skip
    runtime = [str(path) for path in needed_sources(model.sources.values())]
    subprocess.run(["gcc", *flags, "main.c", "one.o", "two.o", *runtime, "-o", "run", "-lm", "-lpthread"],
                   cwd=tmp_path, check=True)  # fmt: skip
    given = b"".join(sample.tobytes() + label.tobytes() for sample, label in data)
    done = subprocess.run([tmp_path / "run"], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    host = HostTraining(model, tmp_path, flags=("-O0",))
    host.state.random = SEED
    for sample, label in data:
        host.step(sample, label, RATE)
    assert done.stdout == 2 * b"".join(host.raw_variables().values())
