#include "lab_f32_conv2d_weight_sgd.h"

#include "lab_f32_weight_taps.h"

void lab_f32_conv2d_weight_sgd(const lab_f32_conv2d_weight_sgd_t *sgd, const float *input, const float *output_gradient,
                               float *weights, lab_training_state_t *state)
{
    const lab_f32_conv2d_t *const layer = &sgd->layer;
    const lab_f32_weight_slice_t slice = {
        .channel_count = sgd->channel_count,
        .first_output = sgd->first_output,
        .output_count = sgd->output_count,
        .target_channels = layer->input_channels / layer->groups,
    };
    const int32_t output_weights = layer->kernel_height * layer->kernel_width * slice.target_channels;
    const lab_f32_update_t update = {
        .target = weights + sgd->first_output * output_weights + sgd->first_channel,
        .rate = state->learning_rate * sgd->rate_scale,
        .weight_decay = sgd->weight_decay,
    };
    lab_f32_weight_taps(layer, &slice, input, output_gradient, lab_f32_update, &update);
}
