#include "lab_q_depthwise_conv2d_weight_sgd.h"

#include "lab_q_depthwise_taps.h"
#include "lab_q_update.h"

void lab_q_depthwise_conv2d_weight_sgd(const lab_q_depthwise_conv2d_weight_sgd_t *sgd, const int8_t *input,
                                       const float *output_gradient, int8_t *weights, int32_t *bias,
                                       lab_training_state_t *state)
{
    const lab_q_update_columns_t update = {
        .weights = weights,
        .bias = bias + sgd->first_channel,
        .weight_scale = sgd->weight_scale + sgd->first_channel,
        .first = sgd->first_channel,
        .bias_offset = sgd->bias_offset,
        .input_scale = sgd->input_scale,
        .rate = state->learning_rate * sgd->rate_scale,
        .key = lab_random_step(&state->random),
    };
    lab_q_depthwise_taps(&sgd->layer, sgd->first_channel, sgd->channel_count, sgd->layer.input_channels,
                         sgd->input_zero_point, input, output_gradient, lab_q_update_columns, &update);
}
