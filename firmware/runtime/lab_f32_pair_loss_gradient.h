/* Gradient of lab_f32_pair_loss with respect to its output: scale * gradient * l'. Of all its functions but LAB_BINARY,
 * whose gradient PyTorch writes as a sigmoid and a difference. gradient one number or a null pointer for 1; saved (the
 * output), target, output [count]. No scratch; output may be saved or target. */
#ifndef LAB_F32_PAIR_LOSS_GRADIENT_H
#define LAB_F32_PAIR_LOSS_GRADIENT_H

#include "lab_f32_pair_loss.h"

typedef struct {
    int32_t count, function;
    float scale, delta;
} lab_f32_pair_loss_gradient_t;

void lab_f32_pair_loss_gradient(const lab_f32_pair_loss_gradient_t *layer, const float *gradient, const float *saved,
                                const float *target, float *output);

#endif
