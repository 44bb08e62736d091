/* Two tensors, element by element, in up to LAB_BINARY_AXES axes with strides of their own: broadcasting has stride 0, and
 * tensors of different memory order need no copies. output is dense in the order of shape; unused axes in front have
 * size 1. No scratch; output may be an operand that is dense in the same order. */
#ifndef LAB_F32_BINARY_H
#define LAB_F32_BINARY_H

#include <stdint.h>

#define LAB_BINARY_AXES 6

enum {
    LAB_SUM,      /* first_scale * a + second_scale * b */
    LAB_PRODUCT,  /* a * b */
    LAB_QUOTIENT, /* a / b */
    LAB_INVERSE_QUOTIENT, /* b / a */
    LAB_KEEP_WHERE, /* b != 0 ? a : first_scale */
    LAB_KEEP_UNLESS, /* b != 0 ? first_scale : a */
};

typedef struct {
    int32_t function;
    int32_t shape[LAB_BINARY_AXES];
    int32_t first_stride[LAB_BINARY_AXES], second_stride[LAB_BINARY_AXES]; /* elements between neighbours */
    float first_scale, second_scale;
} lab_f32_binary_t;

void lab_f32_binary(const lab_f32_binary_t *layer, const float *first, const float *second, float *output);

#endif
