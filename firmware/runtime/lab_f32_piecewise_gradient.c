#include "lab_f32_piecewise_gradient.h"

static inline float value(int32_t function, float g, float x, float first, float second)
{
    switch (function) {
    case LAB_CLAMP:
        return x <= first || x >= second ? 0.0f : g;
    case LAB_LEAKY_RELU:
        return x > 0.0f ? g : first * g;
    case LAB_HARDSIGMOID:
        return x > -3.0f && x < 3.0f ? g / 6.0f : 0.0f;
    default: /* LAB_HARDSWISH */
        return x <= -3.0f ? 0.0f : x < 3.0f ? g * (x / 3.0f + 0.5f) : g;
    }
}

void lab_f32_piecewise_gradient(const lab_f32_piecewise_gradient_t *layer, const float *gradient, const float *saved,
                                float *output)
{
    const int32_t count = layer->count, function = layer->function;
    const float first = layer->first, second = layer->second;
    if (function == LAB_CLAMP) {
        for (int32_t i = 0; i < count; i++)
            output[i] = value(LAB_CLAMP, gradient[i], saved[i], first, second);
        return;
    }
    for (int32_t i = 0; i < count; i++)
        output[i] = value(function, gradient[i], saved[i], first, second);
}
