#include "lab_q_conv2d_weight_gradient.h"

#include "lab_q_update.h"
#include "lab_q_weight_taps.h"

void lab_q_conv2d_weight_gradient(const lab_q_conv2d_weight_gradient_t *gradient, const int8_t *input,
                                  const float *output_gradient, float *weight_gradient)
{
    const lab_f32_weight_slice_t slice = {
        .channel_count = gradient->channel_count,
        .first_output = gradient->first_output,
        .output_count = gradient->output_count,
        .target_channels = gradient->channel_count / gradient->layer.groups,
    };
    const lab_q_store_t store = {.target = weight_gradient, .input_scale = gradient->input_scale};
    lab_q_weight_taps(&gradient->layer, &slice, gradient->input_zero_point, input, output_gradient, lab_q_store,
                      &store);
}
