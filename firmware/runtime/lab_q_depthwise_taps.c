#include "lab_q_depthwise_taps.h"

#include "lab_f32_channels.h"
#include "lab_f32_geometry.h"

#define PANEL_PIXELS 16

/* Some rows of the kernel, and some channels. */
typedef struct {
    lab_f32_axis_t y, x;
    int32_t first_row, rows; /* of the kernel */
    int32_t channels;
    int32_t input_channels, output_channels; /* between pixels */
    int32_t zero_point;
} block_t;

static void fill_panel(const block_t *block, const int8_t *pixel, int32_t count, float *panel)
{
    for (int32_t i = 0; i < count; i++) {
        for (int32_t channel = 0; channel < block->channels; channel++) {
            panel[i * LAB_F32_CHANNELS + channel] = (float)(pixel[channel] - block->zero_point);
        }
        pixel += block->input_channels;
    }
}

/* Adds what a piece of an input row, which lies in the panel, gives to all taps. It is an axis of its own: the pixels
 * before it count as padding. */
static void add_piece(const block_t *block, int32_t input_y, int32_t input_x, int32_t count, const float *panel,
                      const float *output_gradient, float *sums)
{
    lab_f32_axis_t y = block->y;
    lab_f32_axis_t x = block->x;
    y.sources = 1;
    y.pad += input_y;
    x.sources = count;
    x.pad += input_x;
    for (int32_t row = 0; row < block->rows; row++) {
        const lab_f32_range_t at_y = lab_f32_tap_range(&y, block->first_row + row);
        for (int32_t tap_x = 0; at_y.count > 0 && tap_x < x.kernel; tap_x++) {
            const lab_f32_range_t at_x = lab_f32_tap_range(&x, tap_x);
            const int32_t first = at_x.first * x.stride - x.pad + tap_x * x.dilation;
            const lab_f32_channels_t walk = {
                .outer = 1,
                .inner = at_x.count,
                .a_inner = block->output_channels,
                .b_inner = x.stride * LAB_F32_CHANNELS,
            };
            if (at_x.count > 0) {
                const int32_t pixel = at_y.first * x.targets + at_x.first;
                float *const tap_sums = sums + (row * x.kernel + tap_x) * LAB_F32_CHANNELS;
                lab_f32_channels(&walk, output_gradient + pixel * block->output_channels,
                                 panel + first * LAB_F32_CHANNELS, block->channels, tap_sums, tap_sums);
            }
        }
    }
}

static void add_image(const block_t *block, const int8_t *input, const float *output_gradient, float *sums)
{
    float panel[PANEL_PIXELS * LAB_F32_CHANNELS];
    for (int32_t y = 0; y < block->y.sources; y++) {
        for (int32_t x = 0; x < block->x.sources; x += PANEL_PIXELS) {
            const int32_t left = block->x.sources - x;
            const int32_t count = left < PANEL_PIXELS ? left : PANEL_PIXELS;
            fill_panel(block, input + (y * block->x.sources + x) * block->input_channels, count, panel);
            add_piece(block, y, x, count, panel, output_gradient, sums);
        }
    }
}

void lab_q_depthwise_taps(const lab_f32_conv2d_t *layer, int32_t first_channel, int32_t channel_count,
                          int32_t target_channels, int32_t zero_point, const int8_t *input,
                          const float *output_gradient, lab_f32_sink_t sink, const void *context)
{
    block_t block = {
        .y = lab_f32_rows_of(layer),
        .x = lab_f32_columns_of(layer),
        .input_channels = channel_count,
        .output_channels = layer->output_channels,
        .zero_point = zero_point,
    };
    const int32_t most_rows = LAB_Q_DEPTHWISE_TAPS / layer->kernel_width;
    const int32_t input_size = layer->input_height * layer->input_width * channel_count;
    const int32_t output_size = layer->output_height * layer->output_width * layer->output_channels;
    for (int32_t row = 0; row < layer->kernel_height; row += most_rows) {
        block.first_row = row;
        block.rows = layer->kernel_height - row < most_rows ? layer->kernel_height - row : most_rows;
        for (int32_t channel = 0; channel < channel_count; channel += LAB_F32_CHANNELS) {
            float sums[LAB_Q_DEPTHWISE_TAPS * LAB_F32_CHANNELS] = {0.0f};
            block.channels = channel_count - channel < LAB_F32_CHANNELS ? channel_count - channel : LAB_F32_CHANNELS;
            for (int32_t item = 0; item < layer->batch; item++) {
                add_image(&block, input + item * input_size + channel,
                          output_gradient + item * output_size + first_channel + channel, sums);
            }
            lab_f32_place_t place = {.row_end = 1, .column = channel, .column_end = block.channels};
            for (int32_t tap = 0; tap < block.rows * layer->kernel_width; tap++) {
                place.row_index[0] = (row * layer->kernel_width + tap) * target_channels + channel;
                sink(context, sums + tap * LAB_F32_CHANNELS, &place);
            }
        }
    }
}
