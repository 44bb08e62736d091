/* Fisher information of a layer's output channels, summed over training steps, fp32. activation, gradient
 * [batch][positions][channels]; potential[channels] += learning_rate / 2 * sum over the batch of
 * (sum over positions of activation * gradient)^2. With a learning rate of 1 / N over N samples this is equation 2 of
 * Kwon et al. 2024, "TinyTrain". No scratch. */
#ifndef LAB_F32_FISHER_H
#define LAB_F32_FISHER_H

#include "lab_training.h"

typedef struct {
    int32_t batch, positions, channels;
} lab_f32_fisher_t;

void lab_f32_fisher(const lab_f32_fisher_t *layer, float *potential, const float *gradient, const float *activation,
                    const lab_training_state_t *state);

#endif
