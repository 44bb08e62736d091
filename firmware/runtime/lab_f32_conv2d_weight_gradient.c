#include "lab_f32_conv2d_weight_gradient.h"

#include <math.h>

#include "lab_f32_weight_taps.h"

void lab_f32_conv2d_weight_gradient(const lab_f32_conv2d_weight_gradient_t *layer, const float *input,
                                    const float *output_gradient, float *weight_gradient)
{
    const lab_f32_weight_slice_t all = {
        .channel_count = layer->input_channels,
        .output_count = layer->output_channels,
        .target_channels = layer->input_channels / layer->groups,
    };
    const lab_f32_store_t store = {.target = weight_gradient, .minimum = -INFINITY, .maximum = INFINITY};
    lab_f32_weight_taps(layer, &all, input, output_gradient, lab_f32_store, &store);
}
