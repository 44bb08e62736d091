#include "lab_q_conv2d_input_gradient.h"

#include "lab_f32_geometry.h"
#include "lab_f32_tile.h"
#include "lab_q_weights.h"

#define PANEL_DEPTH 64

/* A tap's weights for up to PANEL_DEPTH outputs and four input channels as real values; channels that are not there are
 * 0. */
static void fill_panel(const int32_t *weights, int32_t output_weights, int32_t first_output, int32_t first_weight,
                       const float *weight_scale, int32_t depth, int32_t columns, float *panel)
{
    for (int32_t output = first_output; output < first_output + depth; output++) {
        for (int32_t column = 0; column < 4; column++) {
            const int32_t input = first_weight + column;
            *panel++ = column < columns
                           ? weight_scale[output] * (float)lab_q_weight(weights, output, input, output_weights)
                           : 0.0f;
        }
    }
}

/* The output pixels one tap uses, and the input pixels they meet. */
typedef struct {
    lab_f32_range_t y, x;
    int32_t output_first, output_width; /* in pixels */
    int32_t input_first, input_y, input_x;
} tap_t;

static tap_t tap_of(const lab_f32_axis_t *y, const lab_f32_axis_t *x, int32_t tap_y, int32_t tap_x)
{
    tap_t tap = {.y = lab_f32_tap_range(y, tap_y), .x = lab_f32_tap_range(x, tap_x)};
    const int32_t input_y = tap.y.first * y->stride - y->pad + tap_y * y->dilation;
    const int32_t input_x = tap.x.first * x->stride - x->pad + tap_x * x->dilation;
    tap.output_first = tap.y.first * x->targets + tap.x.first;
    tap.output_width = x->targets;
    tap.input_first = input_y * x->sources + input_x;
    tap.input_y = y->stride * x->sources;
    tap.input_x = x->stride;
    return tap;
}

static void add_columns(const float *sums, int32_t columns, float *target)
{
    for (int32_t column = 0; column < columns; column++) {
        target[column] = sums[column];
    }
}

/* input_gradient += output_gradient . panel, for all pixels of a tap. */
static void add_panel(const lab_f32_conv2d_t *layer, const tap_t *tap, const float *panel, int32_t depth,
                      int32_t columns, const float *output_gradient, float *input_gradient)
{
    lab_f32_tile_t tile = {.outer = 1, .inner = depth, .a_inner = 1, .b_inner = 4};
    float *targets[4];
    float sums[16];
    int32_t rows = 0;
    for (int32_t i = 0; i < 4; i++) {
        tile.b[i] = panel + i;
    }
    for (int32_t y = 0; y < tap->y.count; y++) {
        const float *source = output_gradient + (tap->output_first + y * tap->output_width) * layer->output_channels;
        float *target = input_gradient + (tap->input_first + y * tap->input_y) * layer->input_channels;
        for (int32_t x = 0; x < tap->x.count; x++) {
            tile.a[rows] = source;
            targets[rows] = target;
            for (int32_t column = 0; column < 4; column++) {
                sums[4 * rows + column] = column < columns ? target[column] : 0.0f;
            }
            rows++;
            source += layer->output_channels;
            target += tap->input_x * layer->input_channels;
            if (rows == 4 || (y + 1 == tap->y.count && x + 1 == tap->x.count)) {
                for (int32_t i = rows; i < 4; i++) {
                    tile.a[i] = tile.a[0];
                }
                lab_f32_tile(&tile, rows, 4, sums, sums);
                for (int32_t i = 0; i < rows; i++) {
                    add_columns(sums + 4 * i, columns, targets[i]);
                }
                rows = 0;
            }
        }
    }
}

/* One group's channels of one image. */
static void add_group(const lab_q_conv2d_input_gradient_t *gradient, int32_t group, const float *output_gradient,
                      const int32_t *weights, float *input_gradient)
{
    const lab_f32_conv2d_t *const layer = &gradient->layer;
    const lab_f32_axis_t y = lab_f32_rows_of(layer);
    const lab_f32_axis_t x = lab_f32_columns_of(layer);
    const int32_t inputs = layer->input_channels / layer->groups;
    const int32_t outputs = layer->output_channels / layer->groups;
    const int32_t output_weights = y.kernel * x.kernel * inputs;
    float panel[4 * PANEL_DEPTH];
    for (int32_t tap = 0; tap < y.kernel * x.kernel; tap++) {
        const tap_t place = tap_of(&y, &x, tap / x.kernel, tap % x.kernel);
        for (int32_t output = group * outputs; output < (group + 1) * outputs; output += PANEL_DEPTH) {
            const int32_t left = (group + 1) * outputs - output;
            const int32_t depth = left < PANEL_DEPTH ? left : PANEL_DEPTH;
            for (int32_t channel = 0; channel < inputs; channel += 4) {
                const int32_t columns = inputs - channel < 4 ? inputs - channel : 4;
                fill_panel(weights, output_weights, output, tap * inputs + channel, gradient->weight_scale, depth,
                           columns, panel);
                add_panel(layer, &place, panel, depth, columns, output_gradient + output,
                          input_gradient + group * inputs + channel);
            }
        }
    }
}

void lab_q_conv2d_input_gradient(const lab_q_conv2d_input_gradient_t *gradient, const float *output_gradient,
                                 const int32_t *weights, float *input_gradient)
{
    const lab_f32_conv2d_t *const layer = &gradient->layer;
    const int32_t input_size = layer->input_height * layer->input_width * layer->input_channels;
    const int32_t output_size = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t i = 0; i < layer->batch * input_size; i++) {
        input_gradient[i] = 0.0f;
    }
    for (int32_t item = 0; item < layer->batch; item++) {
        for (int32_t group = 0; group < layer->groups; group++) {
            add_group(gradient, group, output_gradient + item * output_size, weights,
                      input_gradient + item * input_size);
        }
    }
}
