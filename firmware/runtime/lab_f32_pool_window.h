/* The window of one output of average pooling; shared by the kernel and its gradient. */
#ifndef LAB_F32_POOL_WINDOW_H
#define LAB_F32_POOL_WINDOW_H

#include "lab_f32_avg_pool2d.h"

typedef struct {
    int32_t first, last; /* inside the input, last is behind it */
    int32_t length;      /* with the padding that counts */
} lab_pool_window_t;

static inline int32_t lab_pool_smaller(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline lab_pool_window_t lab_pool_window(const lab_f32_avg_pool2d_t *layer, int32_t index, int vertical)
{
    const int32_t input = vertical ? layer->input_height : layer->input_width;
    const int32_t output = vertical ? layer->output_height : layer->output_width;
    const int32_t pad = vertical ? layer->pad_top : layer->pad_left;
    lab_pool_window_t window;
    if (layer->adaptive) {
        window.first = index * input / output;
        window.last = ((index + 1) * input + output - 1) / output;
        window.length = window.last - window.first;
        return window;
    }
    const int32_t start = index * (vertical ? layer->stride_height : layer->stride_width) - pad;
    const int32_t end = lab_pool_smaller(start + (vertical ? layer->kernel_height : layer->kernel_width), input + pad);
    window.first = start < 0 ? 0 : start;
    window.last = lab_pool_smaller(end, input);
    window.length = layer->count_padding ? end - start : window.last - window.first;
    return window;
}

static inline float lab_pool_divisor(const lab_f32_avg_pool2d_t *layer, lab_pool_window_t rows,
                                     lab_pool_window_t columns)
{
    return (float)(layer->divisor != 0 ? layer->divisor : rows.length * columns.length);
}

#endif
