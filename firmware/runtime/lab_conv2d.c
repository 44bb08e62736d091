#include "lab_conv2d.h"

#include <string.h>

#include "lab_dense.h"
#if defined(__ARM_FEATURE_DSP)
#include "arm/block.h"
#endif

/* Top left corner of a receptive field. */
typedef struct {
    int32_t top, left;
} corner_t;

/* memcpy of a few bytes without the call. */
static inline void copy(int8_t *to, const int8_t *from, int32_t count)
{
    for (; count > 3; count -= 4) {
        memcpy(to, from, 4);
        to += 4;
        from += 4;
    }
    for (; count > 0; count--) {
        *to++ = *from++;
    }
}

/* Copy a receptive field; what lies outside the input is the zero point. */
static void gather(const lab_conv2d_t *layer, const int8_t *input, corner_t corner, int8_t *field)
{
    const int32_t channels = layer->input_channels;
    const int32_t width = layer->kernel_width;
    /* Columns [first, last) of the kernel lie inside the input. */
    const int32_t first = corner.left < 0 ? (-corner.left < width ? -corner.left : width) : 0;
    const int32_t room = layer->input_width - corner.left;
    const int32_t end = room < width ? room : width;
    const int32_t last = end > first ? end : first;

    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        const int32_t y = corner.top + ky;
        if (y < 0 || y >= layer->input_height || last == first) {
            memset(field, layer->input_zero_point, (size_t)(width * channels));
        } else {
            const int8_t *row = input + (y * layer->input_width + corner.left + first) * channels;
            if (last - first != width) {
                memset(field, layer->input_zero_point, (size_t)(width * channels));
            }
            copy(field + first * channels, row, (last - first) * channels);
        }
        field += width * channels;
    }
}

#if defined(__ARM_FEATURE_DSP)
/* A pixel of the input, or `outside`. */
static const int8_t *pixel_at(const lab_conv2d_t *layer, const int8_t *input, int32_t y, int32_t x,
                              const int8_t *outside)
{
    const int inside = y >= 0 && y < layer->input_height && x >= 0 && x < layer->input_width;
    return inside ? input + (y * layer->input_width + x) * layer->input_channels : outside;
}

/* Four receptive fields straight from the input, for channels in multiples of four. */
static void append_fields(const lab_conv2d_t *layer, const int8_t *input, const corner_t corners[4],
                          const int8_t *outside, lab_block_t *block)
{
    const int8_t *pixels[4];
    int whole = 1; /* the kernel's columns are all inside the input */
    for (int32_t i = 0; i < 4; i++) {
        whole &= corners[i].left >= 0 && corners[i].left + layer->kernel_width <= layer->input_width;
    }
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        int row_inside = whole;
        for (int32_t i = 0; i < 4; i++) {
            const int32_t y = corners[i].top + ky;
            row_inside &= y >= 0 && y < layer->input_height;
        }
        const int32_t columns = row_inside ? layer->kernel_width : 1; /* at a time */
        for (int32_t kx = 0; kx < layer->kernel_width; kx += columns) {
            for (int32_t i = 0; i < 4; i++) {
                pixels[i] = pixel_at(layer, input, corners[i].top + ky, corners[i].left + kx, outside);
            }
            lab_block_append(block, pixels, columns * layer->input_channels);
        }
    }
}
#endif

/* Four receptive fields to four pixels of output. */
static void four_fields(const lab_conv2d_t *layer, const lab_dense_t *dense, int32_t fast, const int8_t *input,
                        const corner_t corners[4], int8_t *output, int8_t *scratch)
{
    const int32_t padded = lab_dense_padded(dense->inputs);
    const int32_t direct = layer->input_channels % 4 == 0;
#if defined(__ARM_FEATURE_DSP)
    if (fast && direct) {
        uint32_t *const values = (uint32_t *)(void *)scratch;
        lab_block_t block = {.next = values};
        append_fields(layer, input, corners, scratch + 8 * padded, &block);
        lab_block_multiply(dense, &block, values, output);
        return;
    }
#endif
    int8_t *const fields = direct ? scratch + 2 * padded : scratch + 8 * padded;
    const int8_t *rows[4];
    for (int32_t i = 0; i < 4; i++) {
        gather(layer, input, corners[i], fields + i * padded);
        rows[i] = fields + i * padded;
    }
    lab_dense_four_rows(dense, fast, rows, output, scratch);
}

void lab_conv2d(const lab_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const lab_dense_t dense = {
        .weights = layer->weights,
        .bias = layer->bias,
        .multiplier = layer->multiplier,
        .shift = layer->shift,
        .inputs = layer->kernel_height * layer->kernel_width * layer->input_channels,
        .outputs = layer->output_channels,
        .output_zero_point = layer->output_zero_point,
        .output_minimum = layer->output_minimum,
        .output_maximum = layer->output_maximum,
    };
    const int32_t fast = lab_dense_fast(&dense);
    const int32_t padded = lab_dense_padded(dense.inputs);
    corner_t corners[4]; /* that wait for more, also across rows */
    int32_t waiting = 0;

    if (layer->input_channels % 4 == 0) {
        memset(scratch + 8 * padded, layer->input_zero_point, (size_t)layer->input_channels);
    }
    for (int32_t y = 0; y < layer->output_height; y++) {
        for (int32_t x = 0; x < layer->output_width; x++) {
            corners[waiting].top = y * layer->stride_height - layer->pad_top;
            corners[waiting].left = x * layer->stride_width - layer->pad_left;
            if (++waiting == 4) {
                four_fields(layer, &dense, fast, input, corners, output, scratch);
                output += 4 * dense.outputs;
                waiting = 0;
            }
        }
    }
    for (int32_t i = 0; i < waiting; i++) {
        gather(layer, input, corners[i], scratch + 2 * padded);
        lab_dense_row(&dense, scratch + 2 * padded, output, scratch);
        output += dense.outputs;
    }
}
