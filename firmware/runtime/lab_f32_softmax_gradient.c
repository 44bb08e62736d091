#include "lab_f32_softmax_gradient.h"

#include <math.h>

static void row(const lab_f32_softmax_gradient_t *layer, const float *gradient, const float *saved, float *output)
{
    const int32_t step = layer->inner, end = layer->depth * layer->inner;
    float sum = 0.0f;
    if (layer->logarithm) {
        for (int32_t i = 0; i < end; i += step)
            sum += gradient[i];
        for (int32_t i = 0; i < end; i += step)
            output[i] = gradient[i] - expf(saved[i]) * sum;
        return;
    }
    for (int32_t i = 0; i < end; i += step)
        sum += gradient[i] * saved[i];
    for (int32_t i = 0; i < end; i += step)
        output[i] = saved[i] * (gradient[i] - sum);
}

void lab_f32_softmax_gradient(const lab_f32_softmax_gradient_t *layer, const float *gradient, const float *saved,
                              float *output)
{
    const int32_t size = layer->depth * layer->inner;
    for (int32_t o = 0; o < layer->outer; o++) {
        for (int32_t i = 0; i < layer->inner; i++)
            row(layer, gradient + o * size + i, saved + o * size + i, output + o * size + i);
    }
}
