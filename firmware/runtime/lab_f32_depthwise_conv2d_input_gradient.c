#include "lab_f32_depthwise_conv2d_input_gradient.h"

#include "lab_f32_depthwise_gather.h"
#include "lab_f32_geometry.h"

void lab_f32_depthwise_conv2d_input_gradient(const lab_f32_depthwise_conv2d_input_gradient_t *layer,
                                             const float *output_gradient, const float *weights, float *input_gradient)
{
    const lab_f32_depthwise_gather_t gather = {
        .y = lab_f32_reversed(lab_f32_rows_of(layer)),
        .x = lab_f32_reversed(lab_f32_columns_of(layer)),
        .forward = 0,
        .channels = layer->input_channels,
        .pixel_channels = layer->input_channels,
        .weight_channels = layer->input_channels,
    };
    for (int32_t item = 0; item < layer->batch; item++) {
        lab_f32_depthwise_gather(&gather, output_gradient, weights, input_gradient);
        output_gradient += layer->output_height * layer->output_width * layer->output_channels;
        input_gradient += layer->input_height * layer->input_width * layer->input_channels;
    }
}
