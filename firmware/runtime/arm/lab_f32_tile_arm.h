/* The inner loops of lab_f32_tile.c for Arm cores with Thumb-2 and a single-precision FPU, in assembly: 16 sums and 16
 * operands take all 32 registers, which compilers do not manage without spilling. Two steps of the depth, which are 32
 * multiply-accumulates, cost 6 to 8 multiple loads and 2 to 4 instructions for pointers and loop.
 *
 * Each takes the tile in r0, the sums in r1 and what they start from in r2; DEPTH means that an operand's inner stride is 1, LINES that its four
 * pointers follow each other. */
#ifndef LAB_F32_TILE_ARM_H
#define LAB_F32_TILE_ARM_H

#include "../lab_f32_tile.h"

/* Offsets in lab_f32_tile_t, where pointers and integers are words. */
#define TILE_A "0"
#define TILE_B "16"
#define TILE_OUTER "32"
#define TILE_INNER "36"
#define TILE_A_OUTER "40"
#define TILE_A_INNER "44"
#define TILE_B_OUTER "48"
#define TILE_B_INNER "52"

#define NAKED __attribute__((naked, noinline)) static

#define TILE_ARGUMENTS                                                                      \
    __attribute__((unused)) const lab_f32_tile_t *tile, __attribute__((unused)) float *sums, \
        __attribute__((unused)) const float *start

#define FMA(sum, a, b) "vfma.f32 s" #sum ", s" #a ", s" #b "\n"
#define FMA4(s0, s1, s2, s3, a, b0, b1, b2, b3) FMA(s0, a, b0) FMA(s1, a, b1) FMA(s2, a, b2) FMA(s3, a, b3)
#define STEP(a0, a1, a2, a3, b0, b1, b2, b3)                                          \
    FMA4(16, 17, 18, 19, a0, b0, b1, b2, b3) FMA4(20, 21, 22, 23, a1, b0, b1, b2, b3) \
    FMA4(24, 25, 26, 27, a2, b0, b1, b2, b3) FMA4(28, 29, 30, 31, a3, b0, b1, b2, b3)

#define ENTER                \
    "push {r4-r11, lr}\n"    \
    "vpush {s16-s31}\n"      \
    "vldmia r2, {s16-s31}\n"
#define LEAVE                \
    "vstmia r1, {s16-s31}\n" \
    "vpop {s16-s31}\n"       \
    "pop {r4-r11, pc}\n"

/* LINES by LINES: gradients of weights. r2, r3: a, b; r4, r5: their inner strides in bytes; r6, r7: what follows a run. */
NAKED void tile_lines_lines(TILE_ARGUMENTS)
{
    __asm__(ENTER
            "ldr r2, [r0, #" TILE_A "]\n"
            "ldr r3, [r0, #" TILE_B "]\n"
            "ldr r12, [r0, #" TILE_OUTER "]\n"
            "ldrd r8, r9, [r0, #" TILE_INNER "]\n" /* and a_outer */
            "ldrd r4, r10, [r0, #" TILE_A_INNER "]\n" /* and b_outer */
            "ldr r5, [r0, #" TILE_B_INNER "]\n"
            "mls r6, r8, r4, r9\n"
            "mls r7, r8, r5, r10\n"
            "lsls r4, r4, #2\n"
            "lsls r5, r5, #2\n"
            "lsls r6, r6, #2\n"
            "lsls r7, r7, #2\n"
            "1:\n"
            "subs r9, r8, #2\n"
            "blt 3f\n"
            "2:\n"
            "vldmia r2, {s0-s3}\n"
            "add r2, r4\n"
            "vldmia r3, {s4-s7}\n"
            "add r3, r5\n"
            "vldmia r2, {s8-s11}\n"
            "add r2, r4\n"
            "vldmia r3, {s12-s15}\n"
            "add r3, r5\n"
            STEP(0, 1, 2, 3, 4, 5, 6, 7)
            STEP(8, 9, 10, 11, 12, 13, 14, 15)
            "subs r9, #2\n"
            "bge 2b\n"
            "3:\n"
            "lsls r9, r9, #31\n"
            "beq 4f\n"
            "vldmia r2, {s0-s3}\n"
            "add r2, r4\n"
            "vldmia r3, {s4-s7}\n"
            "add r3, r5\n"
            STEP(0, 1, 2, 3, 4, 5, 6, 7)
            "4:\n"
            "add r2, r6\n"
            "add r3, r7\n"
            "subs r12, #1\n"
            "bne 1b\n"
            LEAVE);
}

/* DEPTH by LINES: input gradients, products. r2 to r5: a; r6: b; r7: its inner stride in bytes; r10, r11: what follows a
 * run. */
NAKED void tile_depth_lines(TILE_ARGUMENTS)
{
    __asm__(ENTER
            "ldmia r0, {r2-r6}\n"
            "ldr r12, [r0, #" TILE_OUTER "]\n"
            "ldrd r8, r10, [r0, #" TILE_INNER "]\n" /* and a_outer */
            "ldrd r11, r7, [r0, #" TILE_B_OUTER "]\n" /* and b_inner */
            "sub r10, r10, r8\n"
            "mls r11, r8, r7, r11\n"
            "lsls r10, r10, #2\n"
            "lsls r11, r11, #2\n"
            "lsls r7, r7, #2\n"
            "1:\n"
            "subs r9, r8, #2\n"
            "blt 3f\n"
            "2:\n"
            "vldmia r2!, {s0, s1}\n"
            "vldmia r3!, {s2, s3}\n"
            "vldmia r4!, {s4, s5}\n"
            "vldmia r5!, {s6, s7}\n"
            "vldmia r6, {s8-s11}\n"
            "add r6, r7\n"
            "vldmia r6, {s12-s15}\n"
            "add r6, r7\n"
            STEP(0, 2, 4, 6, 8, 9, 10, 11)
            STEP(1, 3, 5, 7, 12, 13, 14, 15)
            "subs r9, #2\n"
            "bge 2b\n"
            "3:\n"
            "lsls r9, r9, #31\n"
            "beq 4f\n"
            "vldmia r2!, {s0}\n"
            "vldmia r3!, {s2}\n"
            "vldmia r4!, {s4}\n"
            "vldmia r5!, {s6}\n"
            "vldmia r6, {s8-s11}\n"
            "add r6, r7\n"
            STEP(0, 2, 4, 6, 8, 9, 10, 11)
            "4:\n"
            "add r2, r10\n"
            "add r3, r10\n"
            "add r4, r10\n"
            "add r5, r10\n"
            "add r6, r11\n"
            "subs r12, #1\n"
            "bne 1b\n"
            LEAVE);
}

/* DEPTH by DEPTH: forward passes. r2 to r9: a, b; r10, r11: what follows a run; the tile's pointer is not needed any more
 * when r0 counts. */
NAKED void tile_depth_depth(TILE_ARGUMENTS)
{
    __asm__(ENTER
            "ldr r12, [r0, #" TILE_OUTER "]\n"
            "ldrd lr, r10, [r0, #" TILE_INNER "]\n" /* and a_outer */
            "ldr r11, [r0, #" TILE_B_OUTER "]\n"
            "ldmia r0, {r2-r9}\n"
            "sub r10, r10, lr\n"
            "sub r11, r11, lr\n"
            "lsls r10, r10, #2\n"
            "lsls r11, r11, #2\n"
            "1:\n"
            "subs r0, lr, #2\n"
            "blt 3f\n"
            "2:\n"
            "vldmia r2!, {s0, s1}\n"
            "vldmia r3!, {s2, s3}\n"
            "vldmia r4!, {s4, s5}\n"
            "vldmia r5!, {s6, s7}\n"
            "vldmia r6!, {s8, s9}\n"
            "vldmia r7!, {s10, s11}\n"
            "vldmia r8!, {s12, s13}\n"
            "vldmia r9!, {s14, s15}\n"
            STEP(0, 2, 4, 6, 8, 10, 12, 14)
            STEP(1, 3, 5, 7, 9, 11, 13, 15)
            "subs r0, #2\n"
            "bge 2b\n"
            "3:\n"
            "lsls r0, r0, #31\n"
            "beq 4f\n"
            "vldmia r2!, {s0}\n"
            "vldmia r3!, {s2}\n"
            "vldmia r4!, {s4}\n"
            "vldmia r5!, {s6}\n"
            "vldmia r6!, {s8}\n"
            "vldmia r7!, {s10}\n"
            "vldmia r8!, {s12}\n"
            "vldmia r9!, {s14}\n"
            STEP(0, 2, 4, 6, 8, 10, 12, 14)
            "4:\n"
            "add r2, r10\n"
            "add r3, r10\n"
            "add r4, r10\n"
            "add r5, r10\n"
            "add r6, r11\n"
            "add r7, r11\n"
            "add r8, r11\n"
            "add r9, r11\n"
            "subs r12, #1\n"
            "bne 1b\n"
            LEAVE);
}

/* One DEPTH row by four DEPTH columns: forward passes of one pixel or sample. Four steps at once. */
NAKED void strip_depth(TILE_ARGUMENTS)
{
    __asm__("push {r4-r11, lr}\n"
            "vpush {s16-s23}\n"
            "vldmia r2, {s20-s23}\n"
            "ldr r2, [r0, #" TILE_A "]\n"
            "ldr r12, [r0, #" TILE_OUTER "]\n"
            "ldrd r8, r10, [r0, #" TILE_INNER "]\n" /* and a_outer */
            "ldr r11, [r0, #" TILE_B_OUTER "]\n"
            "add r0, #" TILE_B "\n"
            "ldmia r0, {r3-r6}\n"
            "sub r10, r10, r8\n"
            "sub r11, r11, r8\n"
            "lsls r10, r10, #2\n"
            "lsls r11, r11, #2\n"
            "1:\n"
            "subs r9, r8, #4\n"
            "blt 3f\n"
            "2:\n"
            "vldmia r2!, {s0-s3}\n"
            "vldmia r3!, {s4-s7}\n"
            "vldmia r4!, {s8-s11}\n"
            "vldmia r5!, {s12-s15}\n"
            "vldmia r6!, {s16-s19}\n"
            FMA4(20, 21, 22, 23, 0, 4, 8, 12, 16)
            FMA4(20, 21, 22, 23, 1, 5, 9, 13, 17)
            FMA4(20, 21, 22, 23, 2, 6, 10, 14, 18)
            FMA4(20, 21, 22, 23, 3, 7, 11, 15, 19)
            "subs r9, #4\n"
            "bge 2b\n"
            "3:\n"
            "adds r9, #4\n"
            "beq 5f\n"
            "4:\n"
            "vldmia r2!, {s0}\n"
            "vldmia r3!, {s4}\n"
            "vldmia r4!, {s8}\n"
            "vldmia r5!, {s12}\n"
            "vldmia r6!, {s16}\n"
            FMA4(20, 21, 22, 23, 0, 4, 8, 12, 16)
            "subs r9, #1\n"
            "bne 4b\n"
            "5:\n"
            "add r2, r10\n"
            "add r3, r11\n"
            "add r4, r11\n"
            "add r5, r11\n"
            "add r6, r11\n"
            "subs r12, #1\n"
            "bne 1b\n"
            "vstmia r1, {s20-s23}\n"
            "vpop {s16-s23}\n"
            "pop {r4-r11, pc}\n");
}

/* One row, of any stride, by four or sixteen LINES columns: input gradients of one pixel or sample, weight gradients of one
 * input channel. r2, r3: a, b; r4, r5: what their steps leave to do, in bytes; r6, r7: what follows a run. */
#define STRIP_LINES(sums, left, multiplies)            \
    "push {r4-r9, lr}\n"                               \
    "vpush {s16-s31}\n"                                \
    "vldmia r2, {" sums "}\n"                          \
    "ldr r2, [r0, #" TILE_A "]\n"                      \
    "ldr r3, [r0, #" TILE_B "]\n"                      \
    "ldr r12, [r0, #" TILE_OUTER "]\n"                 \
    "ldrd r8, r9, [r0, #" TILE_INNER "]\n"             \
    "ldrd r4, lr, [r0, #" TILE_A_INNER "]\n"           \
    "ldr r5, [r0, #" TILE_B_INNER "]\n"                \
    "mls r6, r8, r4, r9\n"                             \
    "mls r7, r8, r5, lr\n"                             \
    "lsls r4, r4, #2\n"                                \
    "lsls r5, r5, #2\n"                                \
    "lsls r6, r6, #2\n"                                \
    "lsls r7, r7, #2\n"                                \
    "sub r5, #" left "\n"                              \
    "1:\n"                                             \
    "mov r9, r8\n"                                     \
    "2:\n"                                             \
    "vldr s0, [r2]\n"                                  \
    "add r2, r4\n" multiplies                         \
    "add r3, r5\n"                                     \
    "subs r9, #1\n"                                    \
    "bne 2b\n"                                         \
    "add r2, r6\n"                                     \
    "add r3, r7\n"                                     \
    "subs r12, #1\n"                                   \
    "bne 1b\n"                                         \
    "vstmia r1, {" sums "}\n"                          \
    "vpop {s16-s31}\n"                                 \
    "pop {r4-r9, pc}\n"

NAKED void strip_lines(TILE_ARGUMENTS)
{
    __asm__(STRIP_LINES("s16-s19", "0", "vldmia r3, {s1-s4}\n" FMA4(16, 17, 18, 19, 0, 1, 2, 3, 4)));
}

NAKED void wide_strip_lines(TILE_ARGUMENTS)
{
    __asm__(STRIP_LINES("s16-s31", "32",
                        "vldmia r3!, {s1-s8}\n" FMA4(16, 17, 18, 19, 0, 1, 2, 3, 4) FMA4(20, 21, 22, 23, 0, 5, 6, 7, 8)
                        "vldmia r3, {s1-s8}\n" FMA4(24, 25, 26, 27, 0, 1, 2, 3, 4) FMA4(28, 29, 30, 31, 0, 5, 6, 7, 8)));
}

#endif
