/* Losses of an output and a target of the same size: the sum over all elements of l(output, target), times scale.
 * output, target [count], loss one number; added up one after the other, in float. No scratch. */
#ifndef LAB_F32_PAIR_LOSS_H
#define LAB_F32_PAIR_LOSS_H

#include <stdint.h>

enum {
    LAB_SQUARED,    /* (output - target)^2 */
    LAB_HUBER,      /* d^2 / 2 where d = |output - target| < delta, else delta * (d - delta / 2) */
    LAB_SMOOTH_L1,  /* the same over delta; d where delta is 0 */
    LAB_BINARY,     /* cross-entropy of logits: max(x, 0) - x * t + log(1 + exp(-|x|)) */
};

typedef struct {
    int32_t count, function;
    float scale, delta;
} lab_f32_pair_loss_t;

void lab_f32_pair_loss(const lab_f32_pair_loss_t *layer, const float *output, const float *target, float *loss);

#endif
