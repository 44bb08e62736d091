#include "lab_f32_depthwise_conv2d.h"

#include <math.h>

#include "lab_f32_arithmetic.h"
#include "lab_f32_depthwise_gather.h"
#include "lab_f32_geometry.h"

void lab_f32_depthwise_conv2d(const lab_f32_depthwise_conv2d_t *layer, const float *input, const float *weights,
                              const float *bias, float *output)
{
    const lab_f32_depthwise_gather_t gather = {
        .y = lab_f32_rows_of(layer),
        .x = lab_f32_columns_of(layer),
        .forward = 1,
        .channels = layer->input_channels,
        .pixel_channels = layer->input_channels,
        .weight_channels = layer->input_channels,
        .bias = bias,
    };
    const int32_t output_size = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t item = 0; item < layer->batch; item++) {
        lab_f32_depthwise_gather(&gather, input, weights, output + item * output_size);
        input += layer->input_height * layer->input_width * layer->input_channels;
    }
    if (layer->minimum != -INFINITY || layer->maximum != INFINITY) {
        for (int32_t i = 0; i < layer->batch * output_size; i++) {
            output[i] = lab_f32_clamp(output[i], layer->minimum, layer->maximum);
        }
    }
}
