/* The maximum of one window and channel; shared by max pooling with and without places. */
#ifndef LAB_F32_MAX_SCAN_H
#define LAB_F32_MAX_SCAN_H

#include "lab_f32_max_pool2d.h"

/* Place in the window (row * kernel_width + column) of the first maximum, or of the last NaN; `input` is one image.
 * Every window covers at least one element. */
static inline int32_t lab_max_scan(const lab_f32_max_pool2d_t *layer, const float *input, int32_t y, int32_t x,
                                   int32_t channel, float *maximum)
{
    int32_t place = -1;
    for (int32_t i = 0; i < layer->kernel_height; i++) {
        const int32_t row = y * layer->stride_height - layer->pad_top + i * layer->dilation_height;
        if (row < 0 || row >= layer->input_height)
            continue;
        for (int32_t j = 0; j < layer->kernel_width; j++) {
            const int32_t column = x * layer->stride_width - layer->pad_left + j * layer->dilation_width;
            if (column < 0 || column >= layer->input_width)
                continue;
            const float value = input[(row * layer->input_width + column) * layer->channels + channel];
            if (place < 0 || value > *maximum || value != value) {
                *maximum = value;
                place = i * layer->kernel_width + j;
            }
        }
    }
    return place;
}

#endif
