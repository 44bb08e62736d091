#include "lab_f32_sum.h"

void lab_f32_sum(const lab_f32_sum_t *layer, const float *input, float *output)
{
    const int32_t reduced = layer->reduced, inner = layer->inner;
    for (int32_t o = 0; o < layer->outer; o++) {
        for (int32_t i = 0; i < inner; i++) {
            float sum = 0.0f;
            for (int32_t r = 0; r < reduced; r++)
                sum += input[r * inner + i];
            output[i] = sum / layer->divisor;
        }
        input += reduced * inner;
        output += inner;
    }
}
