/* Matrix products, fp32: output = clamp(a . b + bias).
 *
 * a [batch][rows][depth] or, with transpose_a, [batch][depth][rows]; b [batch][depth][columns] or, with transpose_b,
 * [batch][columns][depth]; bias [columns], shared by the batch, or a null pointer; output [batch][rows][columns]. Each
 * output is one float32 sum over depth from first to last, then the bias. No scratch; output must not overlap a, b. */
#ifndef LAB_F32_MATMUL_H
#define LAB_F32_MATMUL_H

#include <stdint.h>

typedef struct {
    int32_t batch, rows, columns, depth;
    int32_t transpose_a, transpose_b;
    float minimum, maximum;
} lab_f32_matmul_t;

void lab_f32_matmul(const lab_f32_matmul_t *layer, const float *a, const float *b, const float *bias, float *output);

#endif
