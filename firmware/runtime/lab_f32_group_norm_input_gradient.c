#include "lab_f32_group_norm_input_gradient.h"

#include "lab_f32_group_norm.h"

/* One group; the pointers are to its first element, scale may be a null pointer. */
static void group(const lab_f32_group_norm_input_gradient_t *layer, const float *gradient, const float *input, float mean,
                  float deviation, const float *scale, float *output)
{
    const int32_t stride = layer->groups * layer->channels;
    const float count = (float)(layer->positions * layer->channels);
    float sum = 0.0f, product = 0.0f;
    for (int32_t first = 0; first < layer->positions; first += LAB_F32_GROUP_NORM_RUN) {
        const int32_t end = lab_f32_group_norm_run_end(first, layer->positions);
        float run = 0.0f, run_product = 0.0f;
        for (int32_t p = first; p < end; p++) {
            for (int32_t c = 0; c < layer->channels; c++) {
                const int32_t i = p * stride + c;
                const float h = scale != 0 ? gradient[i] * scale[c] : gradient[i];
                run += h;
                run_product += h * (input[i] - mean);
            }
        }
        sum += run;
        product += run_product;
    }
    const float offset = sum / count, slope = product * deviation * deviation / count;
    for (int32_t p = 0; p < layer->positions; p++) {
        for (int32_t c = 0; c < layer->channels; c++) {
            const int32_t i = p * stride + c;
            const float h = scale != 0 ? gradient[i] * scale[c] : gradient[i];
            output[i] = deviation * (h - offset - (input[i] - mean) * slope);
        }
    }
}

void lab_f32_group_norm_input_gradient(const lab_f32_group_norm_input_gradient_t *layer, const float *gradient,
                                       const float *input, const float *mean, const float *deviation,
                                       const float *scale, float *output)
{
    const int32_t channels = layer->channels, size = layer->positions * layer->groups * channels;
    for (int32_t b = 0; b < layer->batch; b++) {
        for (int32_t g = 0; g < layer->groups; g++) {
            const int32_t start = b * size + g * channels, statistic = b * layer->groups + g;
            group(layer, gradient + start, input + start, mean[statistic], deviation[statistic],
                  scale != 0 ? scale + g * channels : 0, output + start);
        }
    }
}
