#include "lab_q_depthwise_conv2d_sgd.h"

#include "lab_q_update.h"

void lab_q_depthwise_conv2d_sgd(const lab_q_depthwise_conv2d_sgd_t *sgd, int8_t *weights, const float *gradient,
                                int32_t *bias, lab_training_state_t *state)
{
    const int32_t taps = sgd->layer.kernel_height * sgd->layer.kernel_width;
    const lab_q_update_columns_t update = {
        .weights = weights,
        .bias = bias + sgd->first_channel,
        .weight_scale = sgd->weight_scale + sgd->first_channel,
        .first = sgd->first_channel,
        .bias_offset = sgd->bias_offset,
        .input_scale = 1.0f,
        .rate = state->learning_rate * sgd->rate_scale,
        .key = lab_random_step(&state->random),
    };
    for (int32_t tap = 0; tap < taps; tap++) {
        const lab_f32_place_t place = {
            .row_index = {tap * sgd->layer.input_channels, 0, 0, 0},
            .row_end = 1,
            .column_end = sgd->channel_count,
        };
        lab_q_update_columns(&update, gradient, &place);
        gradient += sgd->channel_count;
    }
}
