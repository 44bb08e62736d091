#include "lab_f32_weight_taps.h"

#include "lab_f32_geometry.h"
#include "lab_f32_product.h"

static void spatial(const lab_f32_conv2d_t *layer, int32_t target_channels, lab_f32_product_t product,
                    const float *input, const float *output_gradient, lab_f32_sink_t sink, const void *context)
{
    const lab_f32_axis_t y = lab_f32_rows_of(layer);
    const lab_f32_axis_t x = lab_f32_columns_of(layer);
    const int32_t pixel = product.b_inner;
    product.items = layer->batch;
    product.a_item = y.targets * x.targets * product.a_inner;
    product.a_outer = x.targets * product.a_inner;
    product.b_item = y.sources * x.sources * pixel;
    product.b_outer = y.stride * x.sources * pixel;
    product.b_inner = x.stride * pixel;
    for (int32_t tap = 0; tap < y.kernel * x.kernel; tap++) {
        const int32_t tap_y = tap / x.kernel;
        const int32_t tap_x = tap % x.kernel;
        const lab_f32_range_t at_y = lab_f32_tap_range(&y, tap_y);
        const lab_f32_range_t at_x = lab_f32_tap_range(&x, tap_x);
        const int32_t input_y = at_y.first * y.stride - y.pad + tap_y * y.dilation;
        const int32_t input_x = at_x.first * x.stride - x.pad + tap_x * x.dilation;
        product.outer = at_y.count;
        product.inner = at_x.count;
        lab_f32_product(&product, output_gradient + (at_y.first * x.targets + at_x.first) * product.a_inner,
                        input + (input_y * x.sources + input_x) * pixel, sink, context);
        product.target_first += target_channels;
    }
}

void lab_f32_weight_taps(const lab_f32_conv2d_t *layer, const lab_f32_weight_slice_t *slice, const float *input,
                         const float *output_gradient, lab_f32_sink_t sink, const void *context)
{
    const int32_t rows = slice->output_count / layer->groups;
    const int32_t columns = slice->channel_count / layer->groups;
    lab_f32_product_t product = {
        .rows = rows,
        .columns = columns,
        .items = 1,
        .outer = 1,
        .inner = layer->batch * layer->output_height * layer->output_width,
        .a_row = 1,
        .a_inner = layer->output_channels,
        .b_column = 1,
        .b_inner = slice->channel_count,
        .target_row = layer->kernel_height * layer->kernel_width * slice->target_channels,
    };
    output_gradient += slice->first_output;
    for (int32_t group = 0; group < layer->groups; group++) {
        product.first_row = group * rows;
        product.target_first = group * rows * product.target_row;
        if (lab_f32_is_pointwise(layer)) {
            lab_f32_product(&product, output_gradient, input, sink, context);
        } else {
            spatial(layer, slice->target_channels, product, input, output_gradient, sink, context);
        }
        output_gradient += rows;
        input += columns;
    }
}
