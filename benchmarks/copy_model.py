"""A model whose output is copies of its input, so that what comes back is compared with what was sent."""

from __future__ import annotations

from lab.compiler.model import CompiledModel, TensorSpec

_HEADER = "#ifndef MODEL_H\n#define MODEL_H\n#define LAB_MODEL_ARENA_BYTES 16u\n#endif\n"
_SOURCE = """
#include "model.h"
#include "lab_model.h"
#include <string.h>
static const char *const layer_names[] = {{"copy"}};
static void infer(const void *input, void *output, uint8_t *arena)
{{
    (void)arena;
    for (int i = 0; i < {copies}; i++)
        memcpy((int8_t *)output + i * {size}, input, {size});
}}
static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{{
    hook(context, 0, 1);
    infer(input, output, arena);
    hook(context, 0, 0);
}}
const lab_model_t lab_model = {{
    .name = "copy", .input_bytes = {size}, .output_bytes = {copies} * {size},
    .arena_bytes = LAB_MODEL_ARENA_BYTES, .layer_count = 1, .layer_names = layer_names,
    .infer = infer, .infer_profiled = infer_profiled,
}};
"""


def copy_model(size: int, copies: int) -> CompiledModel:
    """Takes ``size`` bytes and answers with ``copies`` of them."""
    given, returned = TensorSpec((size,), 1.0, 0), TensorSpec((copies * size,), 1.0, 0)
    sources = {"model.c": _SOURCE.format(size=size, copies=copies), "model.h": _HEADER}
    return CompiledModel("copy", sources, given, returned, (), (), 16, 0, "")
