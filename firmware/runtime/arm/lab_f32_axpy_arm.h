/* The inner loop of lab_f32_axpy.c for Arm cores with Thumb-2 and a single-precision FPU: 17 instructions per 12 elements. */
#ifndef LAB_F32_AXPY_ARM_H
#define LAB_F32_AXPY_ARM_H

#include <stdint.h>

#define FMA4(y0, y1, y2, y3, x0, x1, x2, x3)                                      \
    "vfma.f32 s" #y0 ", s" #x0 ", s0\n" "vfma.f32 s" #y1 ", s" #x1 ", s0\n"       \
    "vfma.f32 s" #y2 ", s" #x2 ", s0\n" "vfma.f32 s" #y3 ", s" #x3 ", s0\n"

/* y += scale * x for `count` elements, at least 1. r0: x, r1: y, r2: count, s0: scale. */
__attribute__((naked, noinline)) static void axpy(__attribute__((unused)) const float *x, __attribute__((unused)) float *y,
                                                  __attribute__((unused)) int32_t count,
                                                  __attribute__((unused)) float scale)
{
    __asm__("vpush {s16-s27}\n"
            "subs r2, #12\n"
            "blt 2f\n"
            "1:\n"
            "vldmia r0!, {s4-s15}\n"
            "vldmia r1, {s16-s27}\n"
            FMA4(16, 17, 18, 19, 4, 5, 6, 7)
            FMA4(20, 21, 22, 23, 8, 9, 10, 11)
            FMA4(24, 25, 26, 27, 12, 13, 14, 15)
            "vstmia r1!, {s16-s27}\n"
            "subs r2, #12\n"
            "bge 1b\n"
            "2:\n"
            "adds r2, #8\n" /* what is left, less 4 */
            "blt 4f\n"
            "3:\n"
            "vldmia r0!, {s4-s7}\n"
            "vldmia r1, {s16-s19}\n"
            FMA4(16, 17, 18, 19, 4, 5, 6, 7)
            "vstmia r1!, {s16-s19}\n"
            "subs r2, #4\n"
            "bge 3b\n"
            "4:\n"
            "adds r2, #4\n"
            "beq 6f\n"
            "5:\n"
            "vldmia r0!, {s4}\n"
            "vldr s16, [r1]\n"
            "vfma.f32 s16, s4, s0\n"
            "vstmia r1!, {s16}\n"
            "subs r2, #1\n"
            "bne 5b\n"
            "6:\n"
            "vpop {s16-s27}\n"
            "bx lr\n");
}

#undef FMA4

#endif
