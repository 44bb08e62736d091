#include "lab_q_depthwise_taps.h"

#include "lab_f32_channels.h"
#include "lab_f32_geometry.h"
#include "lab_f32_zeros.h"
#include "lab_q_widen.h"

#define PANEL_PIXELS 32

/* Some rows of the kernel, and some channels. */
typedef struct {
    lab_f32_axis_t y, x;
    int32_t first_row, rows; /* of the kernel */
    int32_t channels;
    int32_t input_channels, output_channels; /* between pixels */
    int32_t zero_point;
    float *sums;      /* LAB_F32_CHANNELS for each tap */
    uint32_t started; /* bit t: the sums of tap t hold something */
} block_t;

static void fill_panel(const block_t *block, const int8_t *pixel, int32_t count, float *panel)
{
    const lab_q_zeros_t zeros = lab_q_zeros(block->zero_point);
    const int32_t channels = block->channels;
    for (int32_t i = 0; i < count; i++) {
        int32_t channel = 0;
        for (; channel + 4 <= channels; channel += 4) {
            lab_q_widen_four(pixel + channel, zeros, panel + channel);
        }
        lab_q_widen(pixel + channel, channels - channel, block->zero_point, panel + channel);
        panel += LAB_F32_CHANNELS;
        pixel += block->input_channels;
    }
}

/* What the sums of a tap start from. */
static const float *start_of(const block_t *block, int32_t tap)
{
    return ((block->started >> tap) & 1u) != 0 ? block->sums + tap * LAB_F32_CHANNELS : lab_f32_zeros;
}

/* Adds what a rectangle of the input, which lies in the panel, gives to all taps. Its sides are axes of their own: the
 * pixels before them count as padding. */
static void add_panel(block_t *block, const lab_f32_axis_t *y, const lab_f32_axis_t *x, const float *panel,
                      const float *output_gradient)
{
    lab_f32_channels_t walk = {
        .a_outer = x->targets * block->output_channels,
        .a_inner = block->output_channels,
        .b_outer = y->stride * x->sources * LAB_F32_CHANNELS,
        .b_inner = x->stride * LAB_F32_CHANNELS,
    };
    for (int32_t row = 0; row < block->rows; row++) {
        const int32_t tap_y = block->first_row + row;
        const lab_f32_range_t at_y = lab_f32_tap_range(y, tap_y);
        const int32_t panel_row = (at_y.first * y->stride - y->pad + tap_y * y->dilation) * x->sources;
        walk.outer = at_y.count;
        for (int32_t tap_x = 0; at_y.count > 0 && tap_x < x->kernel; tap_x++) {
            const lab_f32_range_t at_x = lab_f32_tap_range(x, tap_x);
            if (at_x.count > 0) {
                const int32_t panel_pixel = panel_row + at_x.first * x->stride - x->pad + tap_x * x->dilation;
                const int32_t pixel = at_y.first * x->targets + at_x.first;
                const int32_t tap = row * x->kernel + tap_x;
                walk.inner = at_x.count;
                lab_f32_channels(&walk, output_gradient + pixel * block->output_channels,
                                 panel + panel_pixel * LAB_F32_CHANNELS, block->channels, start_of(block, tap),
                                 block->sums + tap * LAB_F32_CHANNELS);
                block->started |= 1u << tap;
            }
        }
    }
}

/* As many whole rows at a time as the panel holds, or pieces of one. */
static void add_image(block_t *block, const int8_t *input, const float *output_gradient)
{
    float panel[PANEL_PIXELS * LAB_F32_CHANNELS];
    const int32_t width = block->x.sources < PANEL_PIXELS ? block->x.sources : PANEL_PIXELS;
    const int32_t height = PANEL_PIXELS / width;
    for (int32_t y = 0; y < block->y.sources; y += height) {
        lab_f32_axis_t rows = block->y;
        rows.sources = block->y.sources - y < height ? block->y.sources - y : height;
        rows.pad += y;
        for (int32_t x = 0; x < block->x.sources; x += width) {
            lab_f32_axis_t columns = block->x;
            columns.sources = block->x.sources - x < width ? block->x.sources - x : width;
            columns.pad += x;
            fill_panel(block, input + (y * block->x.sources + x) * block->input_channels,
                       rows.sources * columns.sources, panel);
            add_panel(block, &rows, &columns, panel, output_gradient);
        }
    }
}

void lab_q_depthwise_taps(const lab_f32_conv2d_t *layer, int32_t first_channel, int32_t channel_count,
                          int32_t target_channels, int32_t zero_point, const int8_t *input,
                          const float *output_gradient, lab_f32_sink_t sink, const void *context)
{
    float sums[LAB_Q_DEPTHWISE_TAPS * LAB_F32_CHANNELS];
    block_t block = {
        .sums = sums,
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
            block.started = 0;
            block.channels = channel_count - channel < LAB_F32_CHANNELS ? channel_count - channel : LAB_F32_CHANNELS;
            for (int32_t item = 0; item < layer->batch; item++) {
                add_image(&block, input + item * input_size + channel,
                          output_gradient + item * output_size + first_channel + channel);
            }
            lab_f32_place_t place = {.row_end = 1, .column = channel, .column_end = block.channels};
            for (int32_t tap = 0; tap < block.rows * layer->kernel_width; tap++) {
                place.row_index[0] = (row * layer->kernel_width + tap) * target_channels + channel;
                sink(context, start_of(&block, tap), &place);
            }
        }
    }
}
