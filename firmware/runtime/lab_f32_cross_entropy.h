/* Softmax and negative log likelihood in one, so that no log probabilities are stored; labels as in lab_f32_nll_loss.h.
 * logits [rows][classes], labels [rows], loss one number: mean over the rows that count, or sum. No scratch. */
#ifndef LAB_F32_CROSS_ENTROPY_H
#define LAB_F32_CROSS_ENTROPY_H

#include <stdint.h>

typedef struct {
    int32_t rows, classes;
    int32_t ignored;
    int32_t mean;
} lab_f32_cross_entropy_t;

void lab_f32_cross_entropy(const lab_f32_cross_entropy_t *layer, const float *logits, const int32_t *labels,
                           float *loss);

#endif
