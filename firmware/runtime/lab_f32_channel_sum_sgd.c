#include "lab_f32_channel_sum_sgd.h"

#include "lab_f32_arithmetic.h"

void lab_f32_channel_sum_sgd(const lab_f32_channel_sum_sgd_t *layer, const float *gradient, float *bias,
                             lab_training_state_t *state)
{
    const float rate = state->learning_rate * layer->rate_scale;
    const int32_t channels = layer->channels;
    for (int32_t channel = 0; channel < channels; channel++) {
        float total = 0.0f;
        for (int32_t row = 0; row < layer->rows; row++) {
            total += gradient[row * channels + channel];
        }
        total = LAB_MULTIPLY_ADD(layer->weight_decay, bias[channel], total);
        bias[channel] = LAB_MULTIPLY_ADD(-rate, total, bias[channel]);
    }
}
