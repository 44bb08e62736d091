#include "lab_q_depthwise_conv2d_weight_gradient.h"

#include "lab_q_depthwise_taps.h"
#include "lab_q_update.h"

void lab_q_depthwise_conv2d_weight_gradient(const lab_q_depthwise_conv2d_weight_gradient_t *gradient,
                                            const int8_t *input, const float *output_gradient,
                                            float *weight_gradient)
{
    const lab_q_store_t store = {.target = weight_gradient, .input_scale = gradient->input_scale};
    lab_q_depthwise_taps(&gradient->layer, gradient->first_channel, gradient->channel_count, gradient->channel_count,
                         gradient->input_zero_point, input, output_gradient, lab_q_store, &store);
}
