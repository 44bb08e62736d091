/* Four values at once for lab_q_widen.h, on Arm cores with Thumb-2, DSP instructions and a single-precision FPU. */
#ifndef LAB_Q_WIDEN_ARM_H
#define LAB_Q_WIDEN_ARM_H

#include <stdint.h>

typedef uint32_t lab_q_zeros_t; /* twice the negative zero point, in 16 bits */

static inline lab_q_zeros_t lab_q_zeros(int32_t zero_point)
{
    return (uint32_t)-zero_point << 16 | ((uint32_t)-zero_point & 0xFFFFu);
}

static inline void lab_q_widen_four(const int8_t *values, lab_q_zeros_t zeros, float *wide)
{
    uint32_t even;
    uint32_t odd;
    __asm__ volatile("ldr %[odd], [%[values]]\n"
                     "sxtab16 %[even], %[zeros], %[odd]\n"
                     "sxtab16 %[odd], %[zeros], %[odd], ror #8\n"
                     "vmov s4, s5, %[even], %[odd]\n"
                     "asr %[even], %[even], #16\n"
                     "asr %[odd], %[odd], #16\n"
                     "vmov s6, s7, %[even], %[odd]\n"
                     "vcvt.f32.s16 s4, s4, #0\n"
                     "vcvt.f32.s16 s5, s5, #0\n"
                     "vcvt.f32.s16 s6, s6, #0\n"
                     "vcvt.f32.s16 s7, s7, #0\n"
                     "vstmia %[wide], {s4-s7}\n"
                     : [even] "=&r"(even), [odd] "=&r"(odd)
                     : [values] "r"(values), [zeros] "r"(zeros), [wide] "r"(wide)
                     : "s4", "s5", "s6", "s7", "memory");
}

#endif
