/* Gradient of the cross-entropy with respect to the logits: scale * (softmax - one hot), divided for a mean by the number
 * of rows that count. logits [rows][classes], labels [rows], output [rows][classes]; rows whose label is ignored or out of
 * range get zeros. No scratch; output may be logits. */
#ifndef LAB_F32_CROSS_ENTROPY_GRADIENT_H
#define LAB_F32_CROSS_ENTROPY_GRADIENT_H

#include <stdint.h>

typedef struct {
    int32_t rows, classes;
    int32_t ignored;
    int32_t mean;
    float scale;
} lab_f32_cross_entropy_gradient_t;

void lab_f32_cross_entropy_gradient(const lab_f32_cross_entropy_gradient_t *layer, const float *logits,
                                    const int32_t *labels, float *output);

#endif
