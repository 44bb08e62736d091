/* Random numbers for stochastic rounding: a counter-based generator, so that a number depends on the weight it rounds
 * and not on the order in which a kernel visits the weights. Each kernel call takes one step of xorshift32 (Marsaglia
 * 2003) for its key; weight i of the tensor, in storage order, gets the low 24 bits of a mix of key + i * 0x85EBCA6B
 * (the mix is the finaliser of MurmurHash3; its odd factor is the stride too, which saves Arm code a register). */
#ifndef LAB_RANDOM_H
#define LAB_RANDOM_H

#include <stdint.h>

#define LAB_RANDOM_BITS 24
#define LAB_RANDOM_FIRST UINT32_C(0x85EBCA6B)
#define LAB_RANDOM_SECOND UINT32_C(0xC2B2AE35)
#define LAB_RANDOM_STRIDE LAB_RANDOM_FIRST

static inline uint32_t lab_random_step(uint32_t *state)
{
    uint32_t value = *state;
    value ^= value << 13;
    value ^= value >> 17;
    value ^= value << 5;
    *state = value;
    return value;
}

/* All 32 bits of the number at key + i * LAB_RANDOM_STRIDE. */
static inline uint32_t lab_random_mix(uint32_t value)
{
    value ^= value >> 16;
    value *= LAB_RANDOM_FIRST;
    value ^= value >> 13;
    value *= LAB_RANDOM_SECOND;
    value ^= value >> 16;
    return value;
}

/* Uniform in [0, 2^LAB_RANDOM_BITS). */
static inline uint32_t lab_random_at(uint32_t key, uint32_t index)
{
    return lab_random_mix(key + index * LAB_RANDOM_STRIDE) & ((UINT32_C(1) << LAB_RANDOM_BITS) - 1);
}

#endif
