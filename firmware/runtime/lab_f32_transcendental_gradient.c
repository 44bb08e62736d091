#include "lab_f32_transcendental_gradient.h"

#include <math.h>

static float gelu_slope(float x)
{
    const float density = 0.39894228f * expf(-0.5f * x * x);
    return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * density;
}

static float gelu_tanh_slope(float x)
{
    const float t = tanhf(0.79788456f * (x + 0.044715f * x * x * x));
    const float inner = 0.79788456f * (1.0f + 3.0f * 0.044715f * x * x);
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * inner;
}

static float value(int32_t function, float g, float x, float first, float second)
{
    switch (function) {
    case LAB_SIGMOID:
        return g * (1.0f - x) * x;
    case LAB_TANH:
        return g * (1.0f - x * x);
    case LAB_SILU: {
        const float s = 1.0f / (1.0f + expf(-x));
        return g * s * (1.0f + x * (1.0f - s));
    }
    case LAB_GELU:
        return g * gelu_slope(x);
    case LAB_GELU_TANH:
        return g * gelu_tanh_slope(x);
    case LAB_SOFTPLUS: {
        const float scaled = first * x;
        return scaled > second ? g : g / (1.0f + expf(-scaled));
    }
    default: /* LAB_ELU */
        return x > 0.0f ? g * first : g * second * expf(x);
    }
}

void lab_f32_transcendental_gradient(const lab_f32_transcendental_gradient_t *layer, const float *gradient,
                                     const float *saved, float *output)
{
    for (int32_t i = 0; i < layer->count; i++)
        output[i] = value(layer->function, gradient[i], saved[i], layer->first, layer->second);
}
