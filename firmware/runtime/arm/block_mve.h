/* arm/block.h with Helium. Included by lab_dense.c alone.
 *
 * A block lies in scratch as four rows of int16, input + 128 in the order of the packed weights. Eight inputs of four rows
 * times two outputs take 16 instructions for 64 multiply-accumulates: the sums fill the even registers, which is where
 * VMLADAVA wants them, and the pointers the odd ones. */
#include "block.h"
#include "requantize_mve.h"
#include "row_mve.h"

int32_t lab_dense_fast(const lab_dense_t *dense)
{
    (void)dense;
    return 1;
}

void lab_block_append(lab_block_t *block, const int8_t *const rows[4], int32_t count)
{
    int16_t *to = (int16_t *)(void *)block->next;
    for (int32_t row = 0; row < 4; row++) {
        block->total[row] += (uint32_t)lab_mve_expand(rows[row], count, to);
        to += block->inputs;
    }
    block->next += lab_dense_padded(count) / 2;
}

#define LAB_MVE_ROW(load, both, second)  \
    load                                 \
    "vmladava.s16 " both ", q0, q2\n"    \
    "vmladava.s16 " second ", q1, q2\n"

/* Four rows of padded inputs times a pair of outputs: sums[0 … 3] of 256 * second + first + 128 * total per row, and
 * sums[4 … 7] of the second output. */
__attribute__((naked)) static void multiply_pair(__attribute__((unused)) const int16_t *weights,
                                                 __attribute__((unused)) const int16_t *values,
                                                 __attribute__((unused)) int32_t inputs,
                                                 __attribute__((unused)) int32_t sums[8])
{
    __asm__ volatile(
        "push {r2-r11, lr}\n"
        "mov r3, r1\n"
        "mov r1, r0\n"
        "add r5, r3, r2, lsl #1\n"
        "add r9, r5, r2, lsl #1\n"
        "add r11, r9, r2, lsl #1\n"
        "lsr r7, r2, #3\n"
        "movs r0, #0\n"
        "movs r2, #0\n"
        "movs r4, #0\n"
        "movs r6, #0\n"
        "mov r8, r0\n"
        "mov r10, r0\n"
        "mov r12, r0\n"
        "mov lr, r0\n"
        "cbz r7, 2f\n"
        "1:\n"
        "vldrh.u16 q0, [r1], #16\n"
        "vshr.s16 q1, q0, #8\n"
        LAB_MVE_ROW("vldrh.u16 q2, [r3], #16\n", "r0", "r2")
        LAB_MVE_ROW("vldrh.u16 q2, [r5], #16\n", "r4", "r6")
        LAB_MVE_ROW("vldrh.u16 q2, [r9], #16\n", "r8", "r10")
        LAB_MVE_ROW("vldrh.u16 q2, [r11], #16\n", "r12", "lr")
        "subs r7, #1\n"
        "bne 1b\n"
        "2:\n"
        "ldr r7, [sp]\n"
        "ands r7, #4\n"
        "beq 3f\n"
        /* Four more: behind a row lies the next one, which without weights counts nothing; behind the last, nothing is
         * read. */
        "vctp.16 r7\n"
        "vpst\n"
        "vldrht.u16 q0, [r1]\n"
        "vshr.s16 q1, q0, #8\n"
        LAB_MVE_ROW("vldrh.u16 q2, [r3]\n", "r0", "r2")
        LAB_MVE_ROW("vldrh.u16 q2, [r5]\n", "r4", "r6")
        LAB_MVE_ROW("vldrh.u16 q2, [r9]\n", "r8", "r10")
        LAB_MVE_ROW("vpst\nvldrht.u16 q2, [r11]\n", "r12", "lr")
        "3:\n"
        "ldr r1, [sp, #4]\n"
        "strd r0, r4, [r1]\n"
        "strd r8, r12, [r1, #8]\n"
        "strd r2, r6, [r1, #16]\n"
        "strd r10, lr, [r1, #24]\n"
        "pop {r2-r11, pc}\n");
}

/* Four rows of outputs for one output each. */
static inline void finish(const lab_dense_t *dense, int32_t output, int32x4_t sums, uint32x4_t rows, int8_t *to)
{
    const int32x4_t scaled =
        lab_mve_requantize(vaddq_n_s32(sums, dense->bias[output]), vdupq_n_s32(dense->multiplier[output]),
                           vdupq_n_s32(dense->shift[output]), dense->output_zero_point, dense->output_minimum,
                           dense->output_maximum);
    vstrbq_scatter_offset_s32(to + output, rows, scaled);
}

void lab_block_multiply(const lab_dense_t *dense, const lab_block_t *block, const uint32_t *values, int8_t *output)
{
    const int16_t *weights = (const int16_t *)(const void *)dense->weights;
    const int32x4_t offset = (int32x4_t)vmulq_n_u32(vldrwq_u32(block->total), 128);
    const uint32x4_t rows = vmulq_n_u32(vidupq_n_u32(0, 1), (uint32_t)dense->outputs);
    int32_t sums[8];
    for (int32_t o = 0; o < dense->outputs; o += 2) {
        multiply_pair(weights, (const int16_t *)(const void *)values, block->inputs, sums);
        weights += block->inputs;
        const int32x4_t both = vsubq_s32(vldrwq_s32(sums), offset);
        const int32x4_t second = vldrwq_s32(sums + 4);
        finish(dense, o, vsubq_s32(both, vshlq_n_s32(second, 8)), rows, output);
        if (o + 1 < dense->outputs) {
            finish(dense, o + 1, second, rows, output);
        }
    }
}
