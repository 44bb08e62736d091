#include "lab_f32_conv2d.h"

#include "lab_f32_gather.h"
#include "lab_f32_geometry.h"
#include "lab_f32_product.h"

static void pointwise(const lab_f32_conv2d_t *layer, int32_t pixels, const float *input, const float *weights,
                      const lab_f32_store_t *store)
{
    const lab_f32_product_t product = {
        .rows = pixels,
        .columns = layer->output_channels / layer->groups,
        .items = 1,
        .outer = 1,
        .inner = layer->input_channels / layer->groups,
        .a_row = layer->input_channels,
        .a_inner = 1,
        .b_column = layer->input_channels / layer->groups,
        .b_inner = 1,
        .target_row = layer->output_channels,
    };
    lab_f32_product(&product, input, weights, lab_f32_store, store);
}

static void spatial(const lab_f32_conv2d_t *layer, const float *input, const float *weights, lab_f32_store_t store)
{
    const int32_t depth = layer->input_channels / layer->groups;
    const lab_f32_gather_t gather = {
        .y = lab_f32_rows_of(layer),
        .x = lab_f32_columns_of(layer),
        .forward = 1,
        .source_channels = layer->input_channels,
        .target_channels = layer->output_channels,
        .depth = depth,
        .columns = layer->output_channels / layer->groups,
        .weight_depth = 1,
        .weight_column = layer->kernel_height * layer->kernel_width * depth,
        .weight_y = layer->kernel_width * depth,
        .weight_x = depth,
    };
    for (int32_t item = 0; item < layer->batch; item++) {
        lab_f32_gather(&gather, input, weights, &store);
        input += layer->input_height * layer->input_width * layer->input_channels;
        store.target += layer->output_height * layer->output_width * layer->output_channels;
    }
}

void lab_f32_conv2d(const lab_f32_conv2d_t *layer, const float *input, const float *weights, const float *bias,
                    float *output)
{
    const int32_t inputs = layer->input_channels / layer->groups;
    const int32_t outputs = layer->output_channels / layer->groups;
    const int32_t group_weights = outputs * layer->kernel_height * layer->kernel_width * inputs;
    for (int32_t group = 0; group < layer->groups; group++) {
        const lab_f32_store_t store = {
            .target = output + group * outputs,
            .bias = bias != 0 ? bias + group * outputs : 0,
            .minimum = layer->minimum,
            .maximum = layer->maximum,
        };
        const float *const group_input = input + group * inputs;
        if (lab_f32_is_pointwise(layer)) {
            const int32_t pixels = layer->batch * layer->input_height * layer->input_width;
            pointwise(layer, pixels, group_input, weights + group * group_weights, &store);
        } else {
            spatial(layer, group_input, weights + group * group_weights, store);
        }
    }
}
