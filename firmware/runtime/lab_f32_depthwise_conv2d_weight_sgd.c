#include "lab_f32_depthwise_conv2d_weight_sgd.h"

#include "lab_f32_depthwise_taps.h"

void lab_f32_depthwise_conv2d_weight_sgd(const lab_f32_depthwise_conv2d_weight_sgd_t *sgd, const float *input,
                                         const float *output_gradient, float *weights, lab_training_state_t *state)
{
    const lab_f32_update_t update = {
        .target = weights + sgd->first_channel,
        .rate = state->learning_rate * sgd->rate_scale,
        .weight_decay = sgd->weight_decay,
    };
    lab_f32_depthwise_taps(&sgd->layer, sgd->first_channel, sgd->channel_count, sgd->layer.input_channels, input,
                           output_gradient, lab_f32_update, &update);
}
