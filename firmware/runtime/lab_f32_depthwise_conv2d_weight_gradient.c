#include "lab_f32_depthwise_conv2d_weight_gradient.h"

#include <math.h>

#include "lab_f32_depthwise_taps.h"

void lab_f32_depthwise_conv2d_weight_gradient(const lab_f32_depthwise_conv2d_weight_gradient_t *layer,
                                              const float *input, const float *output_gradient,
                                              float *weight_gradient)
{
    const lab_f32_store_t store = {.target = weight_gradient, .minimum = -INFINITY, .maximum = INFINITY};
    lab_f32_depthwise_taps(layer, 0, layer->input_channels, layer->input_channels, input, output_gradient,
                           lab_f32_store, &store);
}
