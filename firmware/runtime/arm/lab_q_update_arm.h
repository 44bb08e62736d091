/* One weight of lab_q_update.c for Arm cores with Thumb-2, DSP instructions and a single-precision FPU. */
#ifndef LAB_Q_UPDATE_ARM_H
#define LAB_Q_UPDATE_ARM_H

#include "../lab_random.h"

static inline void update_byte(int8_t *byte, int32_t flip, float step, uint32_t *random, int32_t *below)
{
    uint32_t place = *random;
    uint32_t mixed;
    int32_t weight;
    int32_t sum = *below;
    __asm__("eor %[mixed], %[place], %[place], lsr #16\n"
            "mul %[mixed], %[mixed], %[first]\n"
            "eor %[mixed], %[mixed], %[mixed], lsr #13\n"
            "mul %[mixed], %[mixed], %[second]\n"
            "eor %[mixed], %[mixed], %[mixed], lsr #16\n"
            "add %[place], %[place], %[first]\n"
            "ldrsb %[weight], %[byte]\n"
            "eor %[weight], %[weight], %[flip]\n"
            "bfi %[mixed], %[weight], #24, #8\n"
            "sub %[sum], %[sum], %[weight]\n"
            "vcvt.s32.f32 %[step], %[step]\n"
            "vmov %[weight], %[step]\n"
            "qsub %[mixed], %[mixed], %[weight]\n"
            "qsub %[mixed], %[mixed], %[level]\n"
            "sxtab %[sum], %[sum], %[mixed], ror #24\n"
            "sxtab %[mixed], %[stored], %[mixed], ror #24\n"
            "strb %[mixed], %[byte]\n"
            : [mixed] "=&r"(mixed), [weight] "=&r"(weight), [place] "+&r"(place), [sum] "+&r"(sum),
              [step] "+&t"(step), [byte] "+m"(*byte)
            : [flip] "r"(flip), [stored] "r"(1 + flip), [first] "r"(LAB_RANDOM_FIRST),
              [second] "r"(LAB_RANDOM_SECOND), [level] "r"(1 << LAB_RANDOM_BITS));
    *random = place;
    *below = sum;
}

#endif
