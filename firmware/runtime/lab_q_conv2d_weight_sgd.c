#include "lab_q_conv2d_weight_sgd.h"

#include "lab_q_update.h"
#include "lab_q_weight_taps.h"

void lab_q_conv2d_weight_sgd(const lab_q_conv2d_weight_sgd_t *sgd, const int8_t *input, const float *output_gradient,
                             int32_t *weights, int32_t *bias, lab_training_state_t *state)
{
    const lab_f32_conv2d_t *const layer = &sgd->layer;
    const lab_f32_weight_slice_t slice = {
        .channel_count = sgd->channel_count,
        .first_output = sgd->first_output,
        .output_count = sgd->output_count,
        .target_channels = layer->input_channels / layer->groups,
    };
    const int32_t output_weights = layer->kernel_height * layer->kernel_width * slice.target_channels;
    const lab_q_update_rows_t update = {
        .weights = weights,
        .bias = bias,
        .weight_scale = sgd->weight_scale,
        .inputs = output_weights,
        .first_output = sgd->first_output,
        .first = sgd->first_channel,
        .bias_offset = sgd->bias_offset,
        .input_scale = sgd->input_scale,
        .rate = state->learning_rate * sgd->rate_scale,
        .key = lab_random_step(&state->random),
    };
    lab_q_weight_taps(layer, &slice, sgd->input_zero_point, input, output_gradient, lab_q_update_rows, &update);
}
