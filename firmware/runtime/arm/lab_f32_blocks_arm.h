/* The inner loops of lab_f32_blocks.c and lab_f32_blocks_sgd.c for Arm cores with Thumb-2 and a single-precision FPU: 10
 * and 11 instructions for a block of four. */
#ifndef LAB_F32_BLOCKS_ARM_H
#define LAB_F32_BLOCKS_ARM_H

#include <stdint.h>

/* Sum of weights * input over `kept` blocks, at least 1. r0: input, r1: weights, r2: blocks, r3: kept; yields s0. */
__attribute__((naked, noinline, unused)) static float
block_dot(__attribute__((unused)) const float *input, __attribute__((unused)) const float *weights,
          __attribute__((unused)) const uint8_t *blocks, __attribute__((unused)) int32_t kept)
{
    __asm__("movs r12, #0\n"
            "vmov s0, r12\n"
            "1:\n"
            "ldrb r12, [r2], #1\n"
            "add r12, r0, r12, lsl #4\n"
            "vldmia r1!, {s4-s7}\n"
            "vldmia r12, {s8-s11}\n"
            "vfma.f32 s0, s4, s8\n"
            "vfma.f32 s0, s5, s9\n"
            "vfma.f32 s0, s6, s10\n"
            "vfma.f32 s0, s7, s11\n"
            "subs r3, #1\n"
            "bne 1b\n"
            "bx lr\n");
}

/* weights += scale * input over `kept` blocks, at least 1. r0: input, r1: weights, r2: blocks, r3: kept, s0: scale. */
__attribute__((naked, noinline, unused)) static void
block_axpy(__attribute__((unused)) const float *input, __attribute__((unused)) float *weights,
           __attribute__((unused)) const uint8_t *blocks, __attribute__((unused)) int32_t kept,
           __attribute__((unused)) float scale)
{
    __asm__("1:\n"
            "ldrb r12, [r2], #1\n"
            "add r12, r0, r12, lsl #4\n"
            "vldmia r1, {s4-s7}\n"
            "vldmia r12, {s8-s11}\n"
            "vfma.f32 s4, s8, s0\n"
            "vfma.f32 s5, s9, s0\n"
            "vfma.f32 s6, s10, s0\n"
            "vfma.f32 s7, s11, s0\n"
            "vstmia r1!, {s4-s7}\n"
            "subs r3, #1\n"
            "bne 1b\n"
            "bx lr\n");
}

#endif
