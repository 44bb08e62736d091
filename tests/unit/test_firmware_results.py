"""Results of every length come back whole: with their event, in a frame of their own, or in several."""

from __future__ import annotations

import pytest
from helpers.toolchain import SAMPLE_BYTES, built, entry, model_of, needs_host_compiler

from lab.devices.connect import connected
from lab.events import Job, RegionEvent, ResultEvent
from lab.paths import cache_dir

pytestmark = needs_host_compiler

HEADER = "#define LAB_MODEL_ARENA_BYTES 16\n"
SOURCE = """
#include "model.h"
#include "lab_model.h"
static const char *const layer_names[] = {"stretch"};
static void infer(const void *input, void *output, uint8_t *arena)
{
    const int8_t *sample = input;
    int8_t *stretched = output;
    arena[0] = 1;
    for (int i = 0; i < OUTPUT; i++)
        stretched[i] = (int8_t)(sample[i % INPUT] + i);
}
static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
}
const lab_model_t lab_model = {
    .name = "stretch", .input_bytes = INPUT, .output_bytes = OUTPUT, .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 1, .layer_names = layer_names, .infer = infer, .infer_profiled = infer_profiled,
};
"""


@pytest.mark.parametrize("output_bytes", [1, 256, 257, 960, 961, 5000])
def test_results_of_every_length_come_back_whole(output_bytes: int) -> None:
    sizes = f"#define INPUT {SAMPLE_BYTES}\n#define OUTPUT {output_bytes}\n"
    artifact = built("host", model_of("stretch", {"model.c": sizes + SOURCE, "model.h": HEADER}, 16))
    samples = [bytes((7 * k + i) % 256 for i in range(SAMPLE_BYTES)) for k in range(3)]
    with connected(entry("host"), cache_dir()) as device:
        device.deploy(artifact)
        events = list(device.run(Job("infer", b"".join(samples), len(samples), repeats=2)))
    results = {event.index: event.data for event in events if isinstance(event, ResultEvent)}
    expected = [bytes((s[i % SAMPLE_BYTES] + i) % 256 for i in range(output_bytes)) for s in samples]
    assert results == dict(enumerate(expected))
    assert [event.index for event in events if isinstance(event, RegionEvent)] == [0, 0, 1, 1, 2, 2]
