#include "lab_f32_softmax.h"

#include <math.h>

static void row(const lab_f32_softmax_t *layer, const float *input, float *output)
{
    const int32_t step = layer->inner, end = layer->depth * layer->inner;
    float maximum = input[0], sum = 0.0f;
    for (int32_t i = step; i < end; i += step)
        maximum = input[i] > maximum ? input[i] : maximum;
    if (layer->all_masked && maximum == -INFINITY) {
        for (int32_t i = 0; i < end; i += step)
            output[i] = 0.0f;
        return;
    }
    if (layer->logarithm) {
        for (int32_t i = 0; i < end; i += step)
            sum += expf(input[i] - maximum);
        const float logarithm = logf(sum);
        for (int32_t i = 0; i < end; i += step)
            output[i] = input[i] - maximum - logarithm;
        return;
    }
    for (int32_t i = 0; i < end; i += step) {
        output[i] = expf(input[i] - maximum);
        sum += output[i];
    }
    for (int32_t i = 0; i < end; i += step)
        output[i] /= sum;
}

void lab_f32_softmax(const lab_f32_softmax_t *layer, const float *input, float *output)
{
    for (int32_t o = 0; o < layer->outer; o++) {
        for (int32_t i = 0; i < layer->inner; i++)
            row(layer, input + i, output + i);
        input += layer->depth * layer->inner;
        output += layer->depth * layer->inner;
    }
}
