#include "lab_q_weight_taps.h"

#include "lab_f32_geometry.h"
#include "lab_f32_tile.h"
#include "lab_f32_zeros.h"
#include "lab_q_widen.h"

#define PANEL_PIXELS 64
#define TILES 16

/* What one tap sees of one image: a rectangle of output pixels and the input pixels they meet. */
typedef struct {
    lab_f32_range_t y, x;
    int32_t output_first, output_y;         /* in pixels */
    int32_t input_first, input_y, input_x; /* in pixels */
} tap_t;

/* Four columns of the gradient, for up to 4 * TILES outputs. */
typedef struct {
    const float *output_gradient; /* of the first of these outputs */
    const int8_t *input;          /* of the first of these channels */
    int32_t output_channels, input_channels;
    int32_t rows, columns;
    int32_t zero_point;
    float *sums; /* 16 for each tile of four outputs */
    const float *start; /* what the sums start from, and the step from tile to tile: zeros until a panel was added */
    int32_t start_step;
} block_t;

static tap_t tap_of(const lab_f32_axis_t *y, const lab_f32_axis_t *x, int32_t tap_y, int32_t tap_x)
{
    tap_t tap = {.y = lab_f32_tap_range(y, tap_y), .x = lab_f32_tap_range(x, tap_x)};
    const int32_t input_y = tap.y.first * y->stride - y->pad + tap_y * y->dilation;
    const int32_t input_x = tap.x.first * x->stride - x->pad + tap_x * x->dilation;
    tap.output_first = tap.y.first * x->targets + tap.x.first;
    tap.output_y = x->targets;
    tap.input_first = input_y * x->sources + input_x;
    tap.input_y = y->stride * x->sources;
    tap.input_x = x->stride;
    return tap;
}

/* Pixels as real values without their scale, four channels each; channels that are not there are 0. */
static float *fill_pixels(const block_t *block, const int8_t *pixel, int32_t step, int32_t count, float *panel)
{
    const lab_q_zeros_t zeros = lab_q_zeros(block->zero_point);
    const int32_t columns = block->columns;
    for (int32_t i = 0; i < count; i++) {
        if (columns == 4) {
            lab_q_widen_four(pixel, zeros, panel);
        } else {
            lab_q_widen(pixel, columns, block->zero_point, panel);
            for (int32_t column = columns; column < 4; column++) {
                panel[column] = 0.0f;
            }
        }
        panel += 4;
        pixel += step;
    }
    return panel;
}

/* The outputs' tiles; the last one overlaps the one before where there are at least four outputs. */
static int32_t tile_start(int32_t row, int32_t rows)
{
    return (rows >= 4 && row + 4 > rows) ? rows - 4 : row;
}

static void add_panel(block_t *block, const tap_t *tap, const float *panel, int32_t output_pixel, int32_t outer,
                      int32_t inner)
{
    float *sums = block->sums;
    const float *start = block->start;
    lab_f32_tile_t tile = {
        .outer = outer,
        .inner = inner,
        .a_outer = tap->output_y * block->output_channels,
        .a_inner = block->output_channels,
        .b_outer = 4 * inner,
        .b_inner = 4,
    };
    const int32_t rows = block->rows < 4 ? block->rows : 4;
    const float *const gradients = block->output_gradient + output_pixel * block->output_channels;
    for (int32_t i = 0; i < 4; i++) {
        tile.b[i] = panel + i;
    }
    for (int32_t row = 0; row < block->rows; row += 4) {
        for (int32_t i = 0; i < 4; i++) {
            tile.a[i] = gradients + tile_start(row, block->rows) + (i < rows ? i : rows - 1);
        }
        lab_f32_tile(&tile, rows, 4, start, sums);
        start += block->start_step;
        sums += 16;
    }
    block->start = block->sums;
    block->start_step = 16;
}

/* Adds one image's pixels: as many whole rows at a time as the panel holds, or pieces of one. */
static void add_image(block_t *block, const tap_t *tap)
{
    float panel[4 * PANEL_PIXELS];
    const int32_t columns = tap->x.count;
    const int32_t most_rows = columns <= PANEL_PIXELS && columns > 0 ? PANEL_PIXELS / columns : 1;
    for (int32_t y = 0; y < tap->y.count; y += most_rows) {
        const int32_t height = tap->y.count - y < most_rows ? tap->y.count - y : most_rows;
        for (int32_t x = 0; x < columns; x += PANEL_PIXELS) {
            const int32_t width = columns - x < PANEL_PIXELS ? columns - x : PANEL_PIXELS;
            float *end = panel;
            for (int32_t i = 0; i < height; i++) {
                const int32_t pixel = tap->input_first + (y + i) * tap->input_y + x * tap->input_x;
                end = fill_pixels(block, block->input + pixel * block->input_channels,
                                  tap->input_x * block->input_channels, width, end);
            }
            add_panel(block, tap, panel, tap->output_first + y * tap->output_y + x, height, width);
        }
    }
}

static void hand_over(const block_t *block, lab_f32_place_t place, int32_t target_row, int32_t target_first,
                      lab_f32_sink_t sink, const void *context)
{
    const float *sums = block->start;
    const int32_t first_row = place.row;
    place.column_end = block->columns;
    place.row_end = block->rows < 4 ? block->rows : 4;
    for (int32_t row = 0; row < block->rows; row += 4) {
        const int32_t start = tile_start(row, block->rows);
        place.row = first_row + start;
        place.row_begin = row - start;
        for (int32_t i = 0; i < 4; i++) {
            place.row_index[i] = (place.row + i) * target_row + target_first;
        }
        sink(context, sums, &place);
        sums += block->start_step;
    }
}

void lab_q_weight_taps(const lab_f32_conv2d_t *layer, const lab_f32_weight_slice_t *slice, int32_t zero_point,
                       const int8_t *input, const float *output_gradient, lab_f32_sink_t sink, const void *context)
{
    const lab_f32_axis_t y = lab_f32_rows_of(layer);
    const lab_f32_axis_t x = lab_f32_columns_of(layer);
    const int32_t rows = slice->output_count / layer->groups;
    const int32_t columns = slice->channel_count / layer->groups;
    const int32_t taps = y.kernel * x.kernel;
    float sums[16 * TILES];
    block_t block = {
        .output_channels = layer->output_channels,
        .input_channels = slice->channel_count,
        .zero_point = zero_point,
        .sums = sums,
    };
    /* The innermost of these loops with its panel per image is where the time goes; all others only choose. */
    for (int32_t group = 0; group < layer->groups; group++) {
        for (int32_t row = 0; row < rows; row += 4 * TILES) {
            block.rows = rows - row < 4 * TILES ? rows - row : 4 * TILES;
            for (int32_t at = 0; at < taps * columns; at += block.columns) {
                const int32_t tap = at / columns;
                const int32_t channel = at % columns;
                const tap_t place = tap_of(&y, &x, tap / x.kernel, tap % x.kernel);
                block.start = lab_f32_zeros;
                block.start_step = 0;
                block.columns = columns - channel < 4 ? columns - channel : 4;
                block.output_gradient = output_gradient + slice->first_output + group * rows + row;
                block.input = input + group * columns + channel;
                for (int32_t item = 0; item < layer->batch; item++) {
                    add_image(&block, &place);
                    block.output_gradient += y.targets * x.targets * layer->output_channels;
                    block.input += y.sources * x.sources * slice->channel_count;
                }
                const lab_f32_place_t first = {.row = group * rows + row, .column = channel};
                hand_over(&block, first, taps * slice->target_channels, tap * slice->target_channels + channel, sink,
                          context);
            }
        }
    }
}
