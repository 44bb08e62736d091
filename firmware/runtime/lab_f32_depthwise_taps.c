#include "lab_f32_depthwise_taps.h"

#include "lab_f32_channels.h"
#include "lab_f32_geometry.h"
#include "lab_f32_zeros.h"

void lab_f32_depthwise_taps(const lab_f32_conv2d_t *layer, int32_t first_channel, int32_t channel_count,
                            int32_t target_channels, const float *input, const float *output_gradient,
                            lab_f32_sink_t sink, const void *context)
{
    const lab_f32_axis_t y = lab_f32_rows_of(layer);
    const lab_f32_axis_t x = lab_f32_columns_of(layer);
    const int32_t output_channels = layer->output_channels;
    const int32_t output_size = y.targets * x.targets * output_channels;
    const int32_t input_size = y.sources * x.sources * channel_count;
    lab_f32_channels_t walk = {
        .a_outer = x.targets * output_channels,
        .a_inner = output_channels,
        .b_outer = y.stride * x.sources * channel_count,
        .b_inner = x.stride * channel_count,
    };
    lab_f32_place_t place = {.row_end = 1};
    for (int32_t tap = 0; tap < y.kernel * x.kernel; tap++) {
        const int32_t tap_y = tap / x.kernel;
        const int32_t tap_x = tap % x.kernel;
        const lab_f32_range_t at_y = lab_f32_tap_range(&y, tap_y);
        const lab_f32_range_t at_x = lab_f32_tap_range(&x, tap_x);
        const int32_t input_y = at_y.first * y.stride - y.pad + tap_y * y.dilation;
        const int32_t input_x = at_x.first * x.stride - x.pad + tap_x * x.dilation;
        const float *const gradients = output_gradient + (at_y.first * x.targets + at_x.first) * output_channels;
        const float *const inputs = input + (input_y * x.sources + input_x) * channel_count;
        walk.outer = at_x.count > 0 ? at_y.count : 0;
        walk.inner = at_x.count;
        for (int32_t channel = 0; channel < channel_count; channel += LAB_F32_CHANNELS) {
            const int32_t left = channel_count - channel;
            const float *start = lab_f32_zeros;
            float sums[LAB_F32_CHANNELS];
            place.column_end = left < LAB_F32_CHANNELS ? left : LAB_F32_CHANNELS;
            place.column = channel;
            place.row_index[0] = tap * target_channels + channel;
            for (int32_t item = 0; item < layer->batch; item++) {
                lab_f32_channels(&walk, gradients + item * output_size + first_channel + channel,
                                 inputs + item * input_size + channel, place.column_end, start, sums);
                start = sums;
            }
            sink(context, sums, &place);
        }
    }
}
