/* A hand-written model for tests of the runner: output[i] = (input[i] ^ 0x55) + offsets[i], in two layers. */
#include "model.h"

#include "lab_model.h"

#define SIZE 64

static const char *const layer_names[] = {"xor", "offset"};

static const int8_t offsets[SIZE] = {0, 1, 2, 3, 4, 5, 6, 7};

static void xor_layer(const int8_t *input, int8_t *output)
{
    for (int i = 0; i < SIZE; i++)
        output[i] = (int8_t)(input[i] ^ 0x55);
}

static void offset_layer(const int8_t *input, int8_t *output)
{
    for (int i = 0; i < SIZE; i++)
        output[i] = (int8_t)(input[i] + offsets[i]);
}

static void infer(const void *input, void *output, uint8_t *arena)
{
    xor_layer(input, (int8_t *)arena);
    offset_layer((const int8_t *)arena, output);
}

static void infer_profiled(const void *input, void *output, uint8_t *arena, lab_layer_hook hook, void *context)
{
    hook(context, 0, 1);
    xor_layer(input, (int8_t *)arena);
    hook(context, 0, 0);
    hook(context, 1, 1);
    offset_layer((const int8_t *)arena, output);
    hook(context, 1, 0);
}

const lab_model_t lab_model = {
    .name = "tiny",
    .input_bytes = SIZE,
    .output_bytes = SIZE,
    .arena_bytes = LAB_MODEL_ARENA_BYTES,
    .layer_count = 2,
    .layer_names = layer_names,
    .infer = infer,
    .infer_profiled = infer_profiled,
    .output_scale = 0.00390625f,
    .output_zero_point = -128,
    .input_scale = 0.25f,
    .input_zero_point = -3,
};
