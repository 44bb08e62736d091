/* Which positions of a convolution's maps a tap of its kernel meets: the walk of the kernels with kept blocks. */
#ifndef LAB_F32_BLOCKS_TAPS_H
#define LAB_F32_BLOCKS_TAPS_H

#include "lab_f32_geometry.h"

/* rows x columns positions, in floats from the beginning of each map: the first of them, from one to the next of a row,
 * and from a row to the next. */
typedef struct {
    int32_t rows, columns;
    int32_t input, input_column, input_row;
    int32_t output, output_column, output_row;
} lab_f32_tap_t;

static inline lab_f32_tap_t lab_f32_tap_of(const lab_f32_conv2d_t *layer, int32_t ky, int32_t kx)
{
    const lab_f32_axis_t vertical = lab_f32_rows_of(layer);
    const lab_f32_axis_t horizontal = lab_f32_columns_of(layer);
    const lab_f32_range_t y = lab_f32_tap_range(&vertical, ky);
    const lab_f32_range_t x = lab_f32_tap_range(&horizontal, kx);
    const int32_t source_y = y.first * layer->stride_height + ky * layer->dilation_height - layer->pad_top;
    const int32_t source_x = x.first * layer->stride_width + kx * layer->dilation_width - layer->pad_left;
    const lab_f32_tap_t tap = {
        .rows = y.count,
        .columns = x.count,
        .input = (source_y * layer->input_width + source_x) * layer->input_channels,
        .input_column = layer->stride_width * layer->input_channels,
        .input_row = layer->stride_height * layer->input_width * layer->input_channels,
        .output = (y.first * layer->output_width + x.first) * layer->output_channels,
        .output_column = layer->output_channels,
        .output_row = layer->output_width * layer->output_channels,
    };
    return tap;
}

#endif
