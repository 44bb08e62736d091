#include "lab_f32_norm_scale_gradient.h"

#include "lab_f32_group_norm.h"

void lab_f32_norm_scale_gradient(const lab_f32_norm_scale_gradient_t *layer, const float *gradient, const float *input,
                                 const float *mean, const float *deviation, float *output)
{
    const int32_t stride = layer->groups * layer->channels;
    for (int32_t channel = 0; channel < stride; channel++) {
        const int32_t group = channel / layer->channels;
        float total = 0.0f;
        for (int32_t b = 0; b < layer->batch; b++) {
            const int32_t start = b * layer->positions * stride + channel, statistic = b * layer->groups + group;
            for (int32_t first = 0; first < layer->positions; first += LAB_F32_GROUP_NORM_RUN) {
                const int32_t end = lab_f32_group_norm_run_end(first, layer->positions);
                float sum = 0.0f;
                for (int32_t p = first; p < end; p++)
                    sum += gradient[start + p * stride] * (input[start + p * stride] - mean[statistic]);
                total += sum * deviation[statistic];
            }
        }
        output[channel] = total;
    }
}
