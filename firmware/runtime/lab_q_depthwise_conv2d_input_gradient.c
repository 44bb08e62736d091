#include "lab_q_depthwise_conv2d_input_gradient.h"

#include "lab_f32_channels.h"
#include "lab_f32_depthwise_gather.h"
#include "lab_f32_geometry.h"

static void fill_panel(const int8_t *weights, int32_t channels, const float *weight_scale, int32_t taps,
                       int32_t columns, float *panel)
{
    for (int32_t tap = 0; tap < taps; tap++) {
        for (int32_t column = 0; column < columns; column++) {
            panel[tap * LAB_F32_CHANNELS + column] = weight_scale[column] * (float)weights[tap * channels + column];
        }
    }
}

void lab_q_depthwise_conv2d_input_gradient(const lab_q_depthwise_conv2d_input_gradient_t *gradient,
                                           const float *output_gradient, const int8_t *weights, float *input_gradient)
{
    const lab_f32_conv2d_t *const layer = &gradient->layer;
    const int32_t channels = layer->input_channels;
    const int32_t input_size = layer->input_height * layer->input_width * channels;
    const int32_t output_size = layer->output_height * layer->output_width * channels;
    const int32_t most_rows = LAB_Q_TAPS / layer->kernel_width;
    lab_f32_depthwise_gather_t gather = {
        .y = lab_f32_reversed(lab_f32_rows_of(layer)),
        .x = lab_f32_reversed(lab_f32_columns_of(layer)),
        .pixel_channels = channels,
        .weight_channels = LAB_F32_CHANNELS,
    };
    float panel[LAB_Q_TAPS * LAB_F32_CHANNELS];
    /* A piece of the kernel's rows is a kernel of its own with less padding. */
    for (int32_t row = 0; row < layer->kernel_height; row += most_rows) {
        const int32_t left = layer->kernel_height - row;
        gather.y.kernel = left < most_rows ? left : most_rows;
        gather.adds = row > 0;
        gather.y.pad = layer->pad_top - row * layer->dilation_height;
        for (int32_t channel = 0; channel < channels; channel += LAB_F32_CHANNELS) {
            gather.channels = channels - channel < LAB_F32_CHANNELS ? channels - channel : LAB_F32_CHANNELS;
            fill_panel(weights + row * layer->kernel_width * channels + channel, channels,
                       gradient->weight_scale + channel, gather.y.kernel * layer->kernel_width, gather.channels, panel);
            for (int32_t item = 0; item < layer->batch; item++) {
                lab_f32_depthwise_gather(&gather, output_gradient + item * output_size + channel, panel,
                                         input_gradient + item * input_size + channel);
            }
        }
    }
}
