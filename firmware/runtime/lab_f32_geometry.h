/* The shared geometry of convolutions, taken apart. */
#ifndef LAB_F32_GEOMETRY_H
#define LAB_F32_GEOMETRY_H

#include "lab_f32_axis.h"
#include "lab_f32_conv2d.h"

/* Seen from the output (targets) to the input (sources). */
static inline lab_f32_axis_t lab_f32_rows_of(const lab_f32_conv2d_t *layer)
{
    const lab_f32_axis_t axis = {
        .targets = layer->output_height,
        .sources = layer->input_height,
        .kernel = layer->kernel_height,
        .stride = layer->stride_height,
        .pad = layer->pad_top,
        .dilation = layer->dilation_height,
    };
    return axis;
}

static inline lab_f32_axis_t lab_f32_columns_of(const lab_f32_conv2d_t *layer)
{
    const lab_f32_axis_t axis = {
        .targets = layer->output_width,
        .sources = layer->input_width,
        .kernel = layer->kernel_width,
        .stride = layer->stride_width,
        .pad = layer->pad_left,
        .dilation = layer->dilation_width,
    };
    return axis;
}

/* The same axis seen from the input to the output. */
static inline lab_f32_axis_t lab_f32_reversed(lab_f32_axis_t axis)
{
    const int32_t targets = axis.targets;
    axis.targets = axis.sources;
    axis.sources = targets;
    return axis;
}

/* Whether every output pixel is made of the one input pixel at the same place: a matrix product over all pixels. */
static inline int lab_f32_is_pointwise(const lab_f32_conv2d_t *layer)
{
    return layer->kernel_height == 1 && layer->kernel_width == 1 && layer->stride_height == 1 &&
           layer->stride_width == 1 && layer->pad_top == 0 && layer->pad_left == 0 &&
           layer->input_height == layer->output_height && layer->input_width == layer->output_width;
}

#endif
