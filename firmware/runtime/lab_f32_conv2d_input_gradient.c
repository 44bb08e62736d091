#include "lab_f32_conv2d_input_gradient.h"

#include <math.h>

#include "lab_f32_gather.h"
#include "lab_f32_geometry.h"
#include "lab_f32_product.h"

static void pointwise(const lab_f32_conv2d_t *layer, int32_t pixels, const float *output_gradient,
                      const float *weights, const lab_f32_store_t *store)
{
    const lab_f32_product_t product = {
        .rows = pixels,
        .columns = layer->input_channels / layer->groups,
        .items = 1,
        .outer = 1,
        .inner = layer->output_channels / layer->groups,
        .a_row = layer->output_channels,
        .a_inner = 1,
        .b_column = 1,
        .b_inner = layer->input_channels / layer->groups,
        .target_row = layer->input_channels,
    };
    lab_f32_product(&product, output_gradient, weights, lab_f32_store, store);
}

static void spatial(const lab_f32_conv2d_t *layer, const float *output_gradient, const float *weights,
                    lab_f32_store_t store)
{
    const int32_t columns = layer->input_channels / layer->groups;
    const lab_f32_gather_t gather = {
        .y = lab_f32_reversed(lab_f32_rows_of(layer)),
        .x = lab_f32_reversed(lab_f32_columns_of(layer)),
        .forward = 0,
        .source_channels = layer->output_channels,
        .target_channels = layer->input_channels,
        .depth = layer->output_channels / layer->groups,
        .columns = columns,
        .weight_depth = layer->kernel_height * layer->kernel_width * columns,
        .weight_column = 1,
        .weight_y = layer->kernel_width * columns,
        .weight_x = columns,
    };
    for (int32_t item = 0; item < layer->batch; item++) {
        lab_f32_gather(&gather, output_gradient, weights, &store);
        output_gradient += layer->output_height * layer->output_width * layer->output_channels;
        store.target += layer->input_height * layer->input_width * layer->input_channels;
    }
}

void lab_f32_conv2d_input_gradient(const lab_f32_conv2d_input_gradient_t *layer, const float *output_gradient,
                                   const float *weights, float *input_gradient)
{
    const int32_t inputs = layer->input_channels / layer->groups;
    const int32_t outputs = layer->output_channels / layer->groups;
    const int32_t group_weights = outputs * layer->kernel_height * layer->kernel_width * inputs;
    for (int32_t group = 0; group < layer->groups; group++) {
        const lab_f32_store_t store = {
            .target = input_gradient + group * inputs,
            .minimum = -INFINITY,
            .maximum = INFINITY,
        };
        const float *const group_gradient = output_gradient + group * outputs;
        if (lab_f32_is_pointwise(layer)) {
            const int32_t pixels = layer->batch * layer->input_height * layer->input_width;
            pointwise(layer, pixels, group_gradient, weights + group * group_weights, &store);
        } else {
            spatial(layer, group_gradient, weights + group * group_weights, store);
        }
    }
}
