/* Sum or mean over one run of axes: output[o][i] = sum over r of input[o][r][i], divided by divisor; added up one after
 * the other in the order of r, in float. input [outer][reduced][inner], output [outer][inner].
 * No scratch; output must not overlap input. */
#ifndef LAB_F32_SUM_H
#define LAB_F32_SUM_H

#include <stdint.h>

typedef struct {
    int32_t outer, reduced, inner;
    float divisor; /* 1 for a sum */
} lab_f32_sum_t;

void lab_f32_sum(const lab_f32_sum_t *layer, const float *input, float *output);

#endif
