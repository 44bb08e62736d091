#include "lab_f32_group_norm.h"

#include <math.h>

static float mean_of(const lab_f32_group_norm_t *layer, const float *input)
{
    const int32_t stride = layer->groups * layer->channels;
    float total = 0.0f;
    for (int32_t first = 0; first < layer->positions; first += LAB_F32_GROUP_NORM_RUN) {
        const int32_t end = lab_f32_group_norm_run_end(first, layer->positions);
        float sum = 0.0f;
        for (int32_t p = first; p < end; p++) {
            for (int32_t c = 0; c < layer->channels; c++)
                sum += input[p * stride + c];
        }
        total += sum;
    }
    return total / (float)(layer->positions * layer->channels);
}

static float variance_of(const lab_f32_group_norm_t *layer, const float *input, float mean)
{
    const int32_t stride = layer->groups * layer->channels;
    float total = 0.0f;
    for (int32_t first = 0; first < layer->positions; first += LAB_F32_GROUP_NORM_RUN) {
        const int32_t end = lab_f32_group_norm_run_end(first, layer->positions);
        float sum = 0.0f;
        for (int32_t p = first; p < end; p++) {
            for (int32_t c = 0; c < layer->channels; c++) {
                const float difference = input[p * stride + c] - mean;
                sum += difference * difference;
            }
        }
        total += sum;
    }
    return total / (float)(layer->positions * layer->channels);
}

void lab_f32_group_norm(const lab_f32_group_norm_t *layer, const float *input, const float *scale, const float *shift,
                        float *output, float *mean, float *deviation)
{
    const int32_t channels = layer->channels, stride = layer->groups * channels;
    for (int32_t b = 0; b < layer->batch; b++) {
        for (int32_t g = 0; g < layer->groups; g++) {
            const int32_t start = b * layer->positions * stride + g * channels;
            const float m = mean_of(layer, input + start);
            const float d = 1.0f / sqrtf(variance_of(layer, input + start, m) + layer->epsilon);
            for (int32_t p = 0; p < layer->positions; p++) {
                for (int32_t c = 0; c < channels; c++) {
                    const int32_t i = start + p * stride + c;
                    const float normal = (input[i] - m) * d;
                    const float scaled = scale != 0 ? normal * scale[g * channels + c] : normal;
                    output[i] = shift != 0 ? scaled + shift[g * channels + c] : scaled;
                }
            }
            mean[b * layer->groups + g] = m;
            deviation[b * layer->groups + g] = d;
        }
    }
}
