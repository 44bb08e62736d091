#include "lab_f32_channel_sum.h"

void lab_f32_channel_sum(const lab_f32_channel_sum_t *layer, const float *gradient, float *sum)
{
    const int32_t channels = layer->channels;
    for (int32_t channel = 0; channel < channels; channel++) {
        float total = 0.0f;
        for (int32_t row = 0; row < layer->rows; row++) {
            total += gradient[row * channels + channel];
        }
        sum[channel] = total;
    }
}
