/* Gradient of lab_f32_nll_loss with respect to the log probabilities: -scale * gradient * weight[label] at the label, over
 * total for a mean, and zero elsewhere. gradient one number or a null pointer for 1, labels [rows], weights
 * [classes] or null, total as the loss kernel wrote it, output [rows][classes]. Rows whose label is ignored or
 * out of range get zeros. No scratch. */
#ifndef LAB_F32_NLL_LOSS_GRADIENT_H
#define LAB_F32_NLL_LOSS_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t rows, classes;
    int32_t ignored;
    int32_t mean;
    float scale;
} lab_f32_nll_loss_gradient_t;

void lab_f32_nll_loss_gradient(const lab_f32_nll_loss_gradient_t *layer, const float *gradient, const int32_t *labels,
                               const float *weights, const float *total, float *output);

#endif
