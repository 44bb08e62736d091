#include "lab_f32_transcendental.h"

#include <math.h>

static float value(int32_t function, float x, float first, float second)
{
    switch (function) {
    case LAB_EXP:
        return expf(x);
    case LAB_LOG:
        return logf(x);
    case LAB_SQRT:
        return sqrtf(x);
    case LAB_RSQRT:
        return 1.0f / sqrtf(x);
    case LAB_POWER:
        return powf(x, first);
    case LAB_SIGMOID:
        return 1.0f / (1.0f + expf(-x));
    case LAB_TANH:
        return tanhf(x);
    case LAB_SILU:
        return x / (1.0f + expf(-x));
    case LAB_GELU:
        return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case LAB_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    case LAB_SOFTPLUS:
        return first * x > second ? x : log1pf(expf(first * x)) / first;
    default: /* LAB_ELU */
        return x > 0.0f ? first * x : second * expm1f(x);
    }
}

void lab_f32_transcendental(const lab_f32_transcendental_t *layer, const float *input, float *output)
{
    for (int32_t i = 0; i < layer->count; i++)
        output[i] = value(layer->function, input[i], layer->first, layer->second);
}
