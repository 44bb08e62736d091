#include "benchmark.h"

#include "lab_model.h"
#include "text.h"

#include <math.h>
#include <string.h>

/* ---- inputs ---- */

static void fill_int8(const uint8_t *loaded, int8_t *input)
{
    memcpy(input, loaded, lab_model.input_bytes);
}

static void fill_pixels(const uint8_t *loaded, int8_t *input)
{
    for (uint32_t i = 0; i < lab_model.input_bytes; i++)
        input[i] = (int8_t)(loaded[i] - 128);
}

static float real_at(const uint8_t *loaded, uint32_t index)
{
    const uint8_t *bytes = loaded + 4u * index;
    uint32_t bits = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds halves away from zero and saturates, as the public reference does; what is no number becomes -128. */
static int8_t quantized(float value)
{
    float level = roundf(value / lab_model.input_scale) + (float)lab_model.input_zero_point;
    if (level >= 127.0f)
        return 127;
    return level > -128.0f ? (int8_t)level : -128;
}

static void fill_reals(const uint8_t *loaded, int8_t *input)
{
    for (uint32_t i = 0; i < lab_model.input_bytes; i++)
        input[i] = quantized(real_at(loaded, i));
}

/* ---- results ---- */

static float real_output(const int8_t *output, uint32_t index)
{
    return lab_model.output_scale * (float)(output[index] - lab_model.output_zero_point);
}

static void put_scores(const uint8_t *loaded, const int8_t *output)
{
    (void)loaded;
    for (uint32_t i = 0; i < lab_model.output_bytes; i++) {
        if (i > 0)
            text_string(",");
        text_real(real_output(output, i));
    }
}

static void put_mean_square_error(const uint8_t *loaded, const int8_t *output)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < lab_model.output_bytes; i++) {
        float difference = real_output(output, i) - real_at(loaded, i);
        sum += difference * difference;
    }
    text_real(sum / (float)lab_model.output_bytes);
}

const benchmark_t benchmark_kws01 = {"kws01", 1, fill_int8, put_scores};
const benchmark_t benchmark_ic01 = {"ic01", 1, fill_pixels, put_scores};
const benchmark_t benchmark_vww01 = {"vww01", 1, fill_pixels, put_scores};
const benchmark_t benchmark_ad01 = {"ad01", 4, fill_reals, put_mean_square_error};
