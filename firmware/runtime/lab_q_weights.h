/* Single weights of the packed rows of lab_dense.h, for training, which reads and changes them one by one. */
#ifndef LAB_Q_WEIGHTS_H
#define LAB_Q_WEIGHTS_H

#include <stdint.h>

#include "lab_dense.h"

/* Byte of the weight of `output` and `input`, for rows of `inputs` weights. */
static inline uint32_t lab_q_weight_index(int32_t output, int32_t input, int32_t inputs)
{
    const uint32_t pair = (uint32_t)output >> 1;
    const uint32_t k = (uint32_t)input;
    return 2u * pair * (uint32_t)lab_dense_padded(inputs) + ((k >> 2) << 3) + ((k & 1u) << 2) + (k & 2u) +
           ((uint32_t)output & 1u);
}

/* The weights of outputs with an even number lie with 128 added. */
static inline uint8_t lab_q_weight_flip(int32_t output)
{
    return (output & 1) ? 0x00u : 0x80u;
}

static inline int8_t lab_q_weight(const int32_t *weights, int32_t output, int32_t input, int32_t inputs)
{
    const uint8_t *const bytes = (const uint8_t *)weights;
    return (int8_t)(bytes[lab_q_weight_index(output, input, inputs)] ^ lab_q_weight_flip(output));
}

#endif
