/* A matrix product in blocks, its sums handed to a sink: linear layers, pointwise convolutions, and every tap of a
 * convolution's weight gradient.
 *
 * sum[row][column] over item, outer, inner of a[row * a_row + item * a_item + outer * a_outer + inner * a_inner] *
 * b[column * b_column + item * b_item + outer * b_outer + inner * b_inner]; of a_row and a_inner one is 1, of b_column
 * and b_inner too. Without depth (outer or inner 0) the sums are 0. The sink gets row * target_row + target_first as
 * the index of a row's first column. */
#ifndef LAB_F32_PRODUCT_H
#define LAB_F32_PRODUCT_H

#include "lab_f32_sink.h"

typedef struct {
    int32_t rows, columns;
    int32_t items, outer, inner;
    int32_t a_row, a_item, a_outer, a_inner;
    int32_t b_column, b_item, b_outer, b_inner;
    int32_t target_row, target_first;
    int32_t first_row; /* what the sink is told row 0 is */
} lab_f32_product_t;

void lab_f32_product(const lab_f32_product_t *product, const float *a, const float *b, lab_f32_sink_t sink,
                     const void *context);

#endif
