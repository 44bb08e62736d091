#include "lab_quantize.h"

#include <math.h>

void lab_quantize(const lab_quantize_t *layer, const float *input, int8_t *output)
{
    for (int32_t i = 0; i < layer->count; i++) {
        float value = rintf(input[i] / layer->scale) + (float)layer->zero_point;
        /* In float first: what an integer cannot hold must not be converted, and NaN is above nothing. */
        value = value > -128.0f ? value : -128.0f;
        output[i] = (int8_t)(value < 127.0f ? value : 127.0f);
    }
}
