/* Negative log likelihood: loss = -sum of weight[label] * log_probabilities[label], divided by the weights' sum for a
 * mean. Labels equal to ignored do not count; any other label outside [0, classes) makes the loss NaN, which stops
 * training. log_probabilities [rows][classes], labels [rows], weights [classes] or a null pointer
 * for ones, loss one number, total one number: the weights' sum. No scratch. */
#ifndef LAB_F32_NLL_LOSS_H
#define LAB_F32_NLL_LOSS_H

#include <stdint.h>

typedef struct {
    int32_t rows, classes;
    int32_t ignored;
    int32_t mean; /* 1: mean, 0: sum */
} lab_f32_nll_loss_t;

void lab_f32_nll_loss(const lab_f32_nll_loss_t *layer, const float *log_probabilities, const int32_t *labels,
                      const float *weights, float *loss, float *total);

#endif
