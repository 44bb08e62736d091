/* lab_dot.h with the DSP extension (Armv7E-M, Armv8-M Main): 15 instructions for 16 multiply-accumulates. */
#ifndef LAB_ARM_ROW_DSP_H
#define LAB_ARM_ROW_DSP_H

#include <stdint.h>
#include <string.h>

#include <arm_acle.h>

/* Four bytes at any address plus 128 each; `count` < 4 leaves the rest 0, which is what its absence would add. */
static inline uint32_t lab_dsp_four(const int8_t *bytes)
{
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    return word ^ 0x80808080u;
}

static inline uint32_t lab_dsp_fewer(const int8_t *bytes, int32_t count)
{
    uint32_t word = 0;
    for (int32_t i = 0; i < count; i++) {
        word |= (uint32_t)(bytes[i] + 128) << (8 * i);
    }
    return word;
}

typedef struct {
    const uint32_t *values; /* input + 128 as uint16: (k, k+2), (k+1, k+3), … */
    int32_t words;          /* two per four inputs */
    int32_t total;          /* of all values */
} lab_row_t;

static inline lab_row_t lab_row(const int8_t *values, int32_t inputs, int8_t *scratch)
{
    uint32_t *const first = (uint32_t *)(void *)scratch;
    uint32_t *to = first;
    uint32_t total = 0;
    const int8_t *const end = values + (inputs & ~3);
    while (values != end) {
        const uint32_t word = lab_dsp_four(values);
        total = __usada8(word, 0, total);
        to[0] = word & 0x00FF00FFu;
        to[1] = word >> 8 & 0x00FF00FFu;
        to += 2;
        values += 4;
    }
    if (inputs & 3) {
        const uint32_t word = lab_dsp_fewer(values, inputs & 3);
        total = __usada8(word, 0, total);
        to[0] = word & 0x00FF00FFu;
        to[1] = word >> 8 & 0x00FF00FFu;
        to += 2;
    }
    const lab_row_t row = {first, (int32_t)(to - first), (int32_t)total};
    return row;
}

#define LAB_DSP_TWO(value, weight)                  \
    "smlad %[both], " value ", " weight ", %[both]\n" \
    "sxtb16 " weight ", " weight ", ror #8\n"       \
    "smlad %[second], " value ", " weight ", %[second]\n"

#define LAB_DSP_EIGHT                       \
    "ldmia %[x]!, {r4, r5, r6, r8}\n"       \
    "ldmia %[w]!, {r9, r10, r11, r12}\n"    \
    LAB_DSP_TWO("r4", "r9")                 \
    LAB_DSP_TWO("r5", "r10")                \
    LAB_DSP_TWO("r6", "r11")                \
    LAB_DSP_TWO("r8", "r12")

static inline void lab_row_dot(const lab_row_t *row, const int32_t *weights, int32_t sums[2])
{
    const uint32_t *x = row->values;
    int32_t both = 0; /* 256 * second + first + 128 * total */
    int32_t second = 0;
    int32_t rounds = row->words >> 3;
    if (rounds != 0) {
        __asm__ volatile("1:\n"
                LAB_DSP_EIGHT
                LAB_DSP_EIGHT
                "subs %[n], #1\n"
                "bne 1b\n"
                : [x] "+r"(x), [w] "+r"(weights), [both] "+r"(both), [second] "+r"(second), [n] "+r"(rounds)
                :
                : "r4", "r5", "r6", "r8", "r9", "r10", "r11", "r12", "cc", "memory");
    }
    for (int32_t left = row->words & 7; left != 0; left--) {
        const uint32_t word = (uint32_t)*weights++;
        both = __smlad((int16x2_t)*x, (int16x2_t)word, both);
        second = __smlad((int16x2_t)*x, __sxtb16((int8x4_t)(word >> 8 | word << 24)), second);
        x++;
    }
    /* Unsigned: sums near the end of int32 may pass it on their way. */
    sums[0] = (int32_t)((uint32_t)sums[0] + (uint32_t)both - ((uint32_t)second << 8) - 128u * (uint32_t)row->total);
    sums[1] = (int32_t)((uint32_t)sums[1] + (uint32_t)second);
}

#endif
