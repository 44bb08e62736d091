#include "lab_q_conv2d_sgd.h"

#include "lab_q_update.h"

void lab_q_conv2d_sgd(const lab_q_conv2d_sgd_t *sgd, int32_t *weights, const float *gradient, int32_t *bias,
                      lab_training_state_t *state)
{
    const lab_f32_conv2d_t *const layer = &sgd->layer;
    const int32_t channels = layer->input_channels / layer->groups;
    /* With groups the slice is everything. */
    const int32_t columns = sgd->channel_count / layer->groups;
    const int32_t taps = layer->kernel_height * layer->kernel_width;
    const lab_q_update_rows_t update = {
        .weights = weights,
        .bias = bias,
        .weight_scale = sgd->weight_scale,
        .inputs = taps * channels,
        .first_output = sgd->first_output,
        .first = sgd->first_channel,
        .bias_offset = sgd->bias_offset,
        .input_scale = 1.0f,
        .rate = state->learning_rate * sgd->rate_scale,
        .key = lab_random_step(&state->random),
    };
    for (int32_t output = 0; output < sgd->output_count; output++) {
        for (int32_t tap = 0; tap < taps; tap++) {
            const lab_f32_place_t place = {
                .row_index = {output * taps * channels + tap * channels, 0, 0, 0},
                .row = output,
                .row_end = 1,
                .column_end = columns,
            };
            lab_q_update_rows(&update, gradient, &place);
            gradient += columns;
        }
    }
}
