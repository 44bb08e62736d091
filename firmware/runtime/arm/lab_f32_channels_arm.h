/* The inner loops of lab_f32_channels.c for Arm cores with Thumb-2 and a single-precision FPU: 4, 8 or 16 channels at
 * once. 16 channels cost 24 instructions per step.
 *
 * r0: walk, r1: a, r2: b, r3: sums; start lies on the stack. */
#ifndef LAB_F32_CHANNELS_ARM_H
#define LAB_F32_CHANNELS_ARM_H

#include "../lab_f32_channels.h"

#define NAKED_CHANNELS(name)                                                                                        \
    __attribute__((naked, noinline)) static void name(                                                              \
        __attribute__((unused)) const lab_f32_channels_t *walk, __attribute__((unused)) const float *a,             \
        __attribute__((unused)) const float *b, __attribute__((unused)) float *sums,                                \
        __attribute__((unused)) const float *start)

#define FMA(sum, a, b) "vfma.f32 s" #sum ", s" #a ", s" #b "\n"
#define FMA4(sum0, sum1, sum2, sum3, a0, a1, a2, a3, b0, b1, b2, b3) \
    FMA(sum0, a0, b0) FMA(sum1, a1, b1) FMA(sum2, a2, b2) FMA(sum3, a3, b3)

/* r4: runs; r5: steps of a run; r6, r7: what a step leaves to add to a, b, in bytes (its loads move them by `moved`);
 * r8, r9: what follows a run. */
#define CHANNELS(sums, moved, step)                                   \
    "push {r4-r9, lr}\n"                                              \
    "vpush {s16-s31}\n"                                               \
    "ldr r6, [sp, #92]\n" /* above 7 + 16 words */                    \
    "vldmia r6, {" sums "}\n"                                         \
    "ldrd r4, r5, [r0]\n"                                             \
    "ldrd r8, r6, [r0, #8]\n"                                         \
    "ldrd r9, r7, [r0, #16]\n"                                        \
    "mls r8, r5, r6, r8\n"                                            \
    "mls r9, r5, r7, r9\n"                                            \
    "lsls r6, r6, #2\n"                                               \
    "lsls r7, r7, #2\n"                                               \
    "lsls r8, r8, #2\n"                                               \
    "lsls r9, r9, #2\n"                                               \
    "sub r6, #" moved "\n"                                            \
    "sub r7, #" moved "\n"                                            \
    "1:\n"                                                            \
    "mov r0, r5\n"                                                    \
    "2:\n" step                                                       \
    "add r1, r6\n"                                                    \
    "add r2, r7\n"                                                    \
    "subs r0, #1\n"                                                   \
    "bne 2b\n"                                                        \
    "add r1, r8\n"                                                    \
    "add r2, r9\n"                                                    \
    "subs r4, #1\n"                                                   \
    "bne 1b\n"                                                        \
    "vstmia r3, {" sums "}\n"                                         \
    "vpop {s16-s31}\n"                                                \
    "pop {r4-r9, pc}\n"

NAKED_CHANNELS(channels_4)
{
    __asm__(CHANNELS("s16-s19", "0", "vldmia r1, {s0-s3}\n vldmia r2, {s8-s11}\n"
                     FMA4(16, 17, 18, 19, 0, 1, 2, 3, 8, 9, 10, 11)));
}

NAKED_CHANNELS(channels_8)
{
    __asm__(CHANNELS("s16-s23", "0", "vldmia r1, {s0-s7}\n vldmia r2, {s8-s15}\n"
                     FMA4(16, 17, 18, 19, 0, 1, 2, 3, 8, 9, 10, 11)
                     FMA4(20, 21, 22, 23, 4, 5, 6, 7, 12, 13, 14, 15)));
}

NAKED_CHANNELS(channels_16)
{
    __asm__(CHANNELS("s16-s31", "32", "vldmia r1!, {s0-s7}\n vldmia r2!, {s8-s15}\n"
                     FMA4(16, 17, 18, 19, 0, 1, 2, 3, 8, 9, 10, 11)
                     FMA4(20, 21, 22, 23, 4, 5, 6, 7, 12, 13, 14, 15)
                     "vldmia r1, {s0-s7}\n vldmia r2, {s8-s15}\n"
                     FMA4(24, 25, 26, 27, 0, 1, 2, 3, 8, 9, 10, 11)
                     FMA4(28, 29, 30, 31, 4, 5, 6, 7, 12, 13, 14, 15)));
}

#endif
