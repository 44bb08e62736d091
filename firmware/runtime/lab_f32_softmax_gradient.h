/* Gradient of lab_f32_softmax: y * (g - sum(g * y)) over every row, or g - exp(y) * sum(g) for the logarithm, y being what
 * the forward kernel yielded. gradient, saved (y), output [outer][depth][inner].
 * No scratch; output may be gradient or saved. */
#ifndef LAB_F32_SOFTMAX_GRADIENT_H
#define LAB_F32_SOFTMAX_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t outer, depth, inner;
    int32_t logarithm;
} lab_f32_softmax_gradient_t;

void lab_f32_softmax_gradient(const lab_f32_softmax_gradient_t *layer, const float *gradient, const float *saved,
                              float *output);

#endif
