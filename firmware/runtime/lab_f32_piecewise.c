#include "lab_f32_piecewise.h"

#include <math.h>

static float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x; /* NaN stays NaN */
}

/* With a constant function the choice is made outside the loop. */
static inline float value(int32_t function, float x, float first, float second)
{
    switch (function) {
    case LAB_CLAMP:
        return clamp(x, first, second);
    case LAB_LEAKY_RELU:
        return x > 0.0f ? x : first * x;
    case LAB_HARDSIGMOID:
        return clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f;
    case LAB_HARDSWISH:
        return x * clamp(x + 3.0f, 0.0f, 6.0f) / 6.0f;
    case LAB_AFFINE:
        return first * x + second;
    case LAB_DIVIDE:
        return x / first;
    case LAB_RECIPROCAL:
        return first / x;
    case LAB_ABSOLUTE:
        return fabsf(x);
    case LAB_SIGN:
        return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : 0.0f;
    case LAB_SQUARE:
        return x * x;
    case LAB_CUBE:
        return x * x * x;
    case LAB_GREATER:
        return x > first ? 1.0f : 0.0f;
    case LAB_GREATER_EQUAL:
        return x >= first ? 1.0f : 0.0f;
    case LAB_LESS:
        return x < first ? 1.0f : 0.0f;
    case LAB_LESS_EQUAL:
        return x <= first ? 1.0f : 0.0f;
    case LAB_EQUAL:
        return x == first ? 1.0f : 0.0f;
    case LAB_NOT_EQUAL:
        return x != first ? 1.0f : 0.0f;
    default: /* LAB_CHOOSE */
        return x != 0.0f ? first : second;
    }
}

void lab_f32_piecewise(const lab_f32_piecewise_t *layer, const float *input, float *output)
{
    const int32_t count = layer->count, function = layer->function;
    const float first = layer->first, second = layer->second;
    /* The two that nearly every network has get loops of their own. */
    if (function == LAB_CLAMP) {
        for (int32_t i = 0; i < count; i++)
            output[i] = value(LAB_CLAMP, input[i], first, second);
        return;
    }
    if (function == LAB_AFFINE) {
        for (int32_t i = 0; i < count; i++)
            output[i] = value(LAB_AFFINE, input[i], first, second);
        return;
    }
    for (int32_t i = 0; i < count; i++)
        output[i] = value(function, input[i], first, second);
}
