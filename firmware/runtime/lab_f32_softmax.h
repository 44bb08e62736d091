/* Softmax or its logarithm over the middle axis; the row's maximum is taken off first, so nothing overflows.
 * input, output [outer][depth][inner]. No scratch; output may be input. */
#ifndef LAB_F32_SOFTMAX_H
#define LAB_F32_SOFTMAX_H

#include <stdint.h>

typedef struct {
    int32_t outer, depth, inner;
    int32_t logarithm;  /* 1: the logarithm of the softmax */
    int32_t all_masked; /* 1: a row of -inf yields zeros instead of NaN */
} lab_f32_softmax_t;

void lab_f32_softmax(const lab_f32_softmax_t *layer, const float *input, float *output);

#endif
