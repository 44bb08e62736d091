/* Random numbers for stochastic rounding: a counter-based generator, so that a number depends on the weight it rounds
 * and not on the order in which a kernel visits the weights. Each kernel call takes one step of xorshift32 (Marsaglia
 * 2003) for its key; weight i of the tensor, in storage order, gets the top 20 bits of a mix of key + i * 0x9E3779B9
 * (the mix is the finaliser of MurmurHash3). */
#ifndef LAB_RANDOM_H
#define LAB_RANDOM_H

#include <stdint.h>

#define LAB_RANDOM_BITS 20

static inline uint32_t lab_random_step(uint32_t *state)
{
    uint32_t value = *state;
    value ^= value << 13;
    value ^= value >> 17;
    value ^= value << 5;
    *state = value;
    return value;
}

/* Uniform in [0, 2^LAB_RANDOM_BITS). */
static inline uint32_t lab_random_at(uint32_t key, uint32_t index)
{
    uint32_t value = key + index * UINT32_C(0x9E3779B9);
    value ^= value >> 16;
    value *= UINT32_C(0x85EBCA6B);
    value ^= value >> 13;
    value *= UINT32_C(0xC2B2AE35);
    value ^= value >> 16;
    return value >> (32 - LAB_RANDOM_BITS);
}

#endif
