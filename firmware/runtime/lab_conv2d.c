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

/* memcpy of a few bytes without the call, in words, of which the last may overlap the one before. */
static inline void copy(int8_t *to, const int8_t *from, int32_t count)
{
    int32_t i = 0;
    for (; i + 3 < count; i += 4) {
        memcpy(to + i, from + i, 4);
    }
    if (i < count && count > 3) {
        memcpy(to + count - 4, from + count - 4, 4);
        i = count;
    }
    for (; i < count; i++) {
        to[i] = from[i];
    }
}

/* Copy a receptive field of which parts lie outside the input; they are the zero point. */
static void gather_at_border(const lab_conv2d_t *layer, const int8_t *input, corner_t corner, int8_t *field)
{
    const int32_t channels = layer->input_channels;
    const int32_t width = layer->kernel_width;
    /* Columns [first, last) of the kernel lie inside the input. */
    const int32_t first = corner.left < 0 ? (-corner.left < width ? -corner.left : width) : 0;
    const int32_t room = layer->input_width - corner.left;
    const int32_t end = room < width ? room : width;
    const int32_t last = end > first ? end : first;

    memset(field, layer->input_zero_point, (size_t)(layer->kernel_height * width * channels));
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        const int32_t y = corner.top + ky;
        if (y >= 0 && y < layer->input_height && last != first) {
            const int8_t *row = input + (y * layer->input_width + corner.left + first) * channels;
            copy(field + first * channels, row, (last - first) * channels);
        }
        field += width * channels;
    }
}

static void gather(const lab_conv2d_t *layer, const int8_t *input, corner_t corner, int8_t *field)
{
    const int32_t row_bytes = layer->input_width * layer->input_channels;
    const int32_t field_row_bytes = layer->kernel_width * layer->input_channels;
    if (corner.top < 0 || corner.left < 0 || corner.top + layer->kernel_height > layer->input_height ||
        corner.left + layer->kernel_width > layer->input_width) {
        gather_at_border(layer, input, corner, field);
        return;
    }
    const int8_t *row = input + corner.top * row_bytes + corner.left * layer->input_channels;
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        copy(field, row, field_row_bytes);
        field += field_row_bytes;
        row += row_bytes;
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
                        const corner_t corners[4], int8_t *output, int8_t *scratch, int8_t *fields)
{
    const int32_t padded = dense->inputs;
#if defined(__ARM_FEATURE_DSP)
    if (fast && layer->input_channels % 4 == 0) {
        uint32_t *const values = (uint32_t *)(void *)scratch;
        lab_block_t block = {.next = values, .inputs = padded};
        append_fields(layer, input, corners, scratch + 8 * padded, &block);
        lab_block_multiply(dense, &block, values, output);
        return;
    }
#endif
    const int8_t *rows[4];
    for (int32_t i = 0; i < 4; i++) {
        gather(layer, input, corners[i], fields + i * padded);
        rows[i] = fields + i * padded;
    }
    lab_dense_four_rows(dense, fast, rows, output, scratch);
}

void lab_conv2d(const lab_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const int32_t inputs = layer->kernel_height * layer->kernel_width * layer->input_channels;
    const int32_t padded = lab_dense_padded(inputs);
    const lab_dense_t dense = {
        .weights = layer->weights,
        .bias = layer->bias,
        .multiplier = layer->multiplier,
        .shift = layer->shift,
        .inputs = padded, /* what pads a receptive field has no weights, but must have a value */
        .outputs = layer->output_channels,
        .output_zero_point = layer->output_zero_point,
        .output_minimum = layer->output_minimum,
        .output_maximum = layer->output_maximum,
    };
    const int32_t fast = lab_dense_fast(&dense);
    int8_t *const fields = scratch + (layer->input_channels % 4 == 0 ? 2 : 8) * padded; /* gathered; else expanded */
    corner_t corners[4]; /* that wait for more, also across rows */
    int32_t waiting = 0;

    if (layer->input_channels % 4 == 0) {
        memset(scratch + 8 * padded, layer->input_zero_point, (size_t)layer->input_channels);
    } else {
        for (int32_t i = 0; i < 4; i++) {
            memset(scratch + 8 * padded + i * padded + inputs, 0, (size_t)(padded - inputs));
        }
    }
    for (int32_t y = 0; y < layer->output_height; y++) {
        for (int32_t x = 0; x < layer->output_width; x++) {
            corners[waiting].top = y * layer->stride_height - layer->pad_top;
            corners[waiting].left = x * layer->stride_width - layer->pad_left;
            if (++waiting == 4) {
                four_fields(layer, &dense, fast, input, corners, output, scratch, fields);
                output += 4 * dense.outputs;
                waiting = 0;
            }
        }
    }
    for (int32_t i = 0; i < waiting; i++) {
        gather(layer, input, corners[i], fields);
        lab_dense_row(&dense, fields, output, scratch);
        output += dense.outputs;
    }
}
