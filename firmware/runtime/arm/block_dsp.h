/* arm/block.h with the DSP extension (Armv7E-M, Armv8-M Main). Included by lab_dense.c alone.
 *
 * A block lies in scratch as words of two uint16, 2 * (input + 128) each (doubled, since the requantisation wants its sums
 * doubled): for every two inputs one word per row. Two outputs of four rows take eight accumulators, two words of
 * weights, two of inputs and two pointers: all 14 registers, and 12 instructions for 16 multiply-accumulates. */
#include "block.h"
#include "clamp_dsp.h"
#include "row_dsp.h"

#define EVEN_DOUBLED 0x01FE01FEu

static void append_two_rows(uint32_t *to, const int8_t *row0, const int8_t *row1, int32_t count, uint32_t total[2])
{
    uint32_t total0 = total[0];
    uint32_t total1 = total[1];
    const uint32_t mask = EVEN_DOUBLED;
    const int8_t *const end = row0 + (count & ~3);
    if (row0 != end) {
        /* 14 instructions for 8 inputs; a compiler takes 18. */
        uint32_t a, b, c, d;
        __asm__ volatile("1:\n"
                "ldr %[a], [%[row0]], #4\n"
                "ldr %[b], [%[row1]], #4\n"
                "eor %[a], %[a], #0x80808080\n"
                "eor %[b], %[b], #0x80808080\n"
                "usada8 %[total0], %[a], %[zero], %[total0]\n"
                "usada8 %[total1], %[b], %[zero], %[total1]\n"
                "and %[c], %[mask], %[a], lsl #1\n"
                "and %[d], %[mask], %[b], lsl #1\n"
                "strd %[c], %[d], [%[to]], #16\n"
                "and %[c], %[mask], %[a], lsr #7\n"
                "and %[d], %[mask], %[b], lsr #7\n"
                "strd %[c], %[d], [%[to]], #16\n"
                "cmp %[row0], %[end]\n"
                "bne 1b\n"
                : [to] "+r"(to), [row0] "+r"(row0), [row1] "+r"(row1), [total0] "+r"(total0), [total1] "+r"(total1),
                  [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [d] "=&r"(d)
                : [mask] "r"(mask), [zero] "r"(0), [end] "r"(end)
                : "cc", "memory");
    }
    if (count & 3) {
        const uint32_t word0 = lab_dsp_fewer(row0, count & 3);
        const uint32_t word1 = lab_dsp_fewer(row1, count & 3);
        total0 = __usada8(word0, 0, total0);
        total1 = __usada8(word1, 0, total1);
        to[0] = word0 << 1 & mask;
        to[1] = word1 << 1 & mask;
        to[4] = word0 >> 7 & mask;
        to[5] = word1 >> 7 & mask;
    }
    total[0] = total0;
    total[1] = total1;
}

int32_t lab_dense_fast(const lab_dense_t *dense)
{
    for (int32_t o = 0; o < dense->outputs; o++) {
        if (dense->shift[o] < LAB_DSP_LEAST_SHIFT || dense->shift[o] > LAB_DSP_MOST_SHIFT) {
            return 0;
        }
    }
    return 1;
}

void lab_block_append(lab_block_t *block, const int8_t *const rows[4], int32_t count)
{
    append_two_rows(block->next, rows[0], rows[1], count, block->total);
    append_two_rows(block->next + 2, rows[2], rows[3], count, block->total + 2);
    block->next += 2 * lab_dense_padded(count);
}

/* What multiply_pairs keeps on its stack; the numbers in its text are these offsets. */
typedef struct {
    const uint32_t *values;    /* 0: less 8 bytes, and less what the first round skips */
    uint32_t skipped;          /* 4: bytes of weights the first round skips */
    uint32_t entry;            /* 8: bytes of code the first round skips; becomes an address */
    const uint32_t *end;       /* 12: of the values, less 8 bytes */
    uint32_t start[4];         /* 16: what the sums of both outputs start with, per row */
    const int32_t *bias;       /* 32 */
    const int32_t *multiplier; /* 36 */
    const uint8_t *shift;      /* 40 */
    int32_t zero_point;        /* 44: twice, plus one */
    int8_t *output;            /* 48 */
    int32_t outputs;           /* 52: bytes from one row of outputs to the next */
    int32_t outputs3;          /* 56: three times that */
    const int8_t *last;        /* 60: where `output` ends */
} frame_t;

/* Two inputs of four rows times two outputs; every instruction is 32 bits long, since the first round jumps in between. */
#define STEP(w, x0, x2)                 \
    "ldr.w r12, [r1, #" w "\n"          \
    "ldrd r2, r3, [r0, #" x0 "]\n"      \
    "sxtb16 lr, r12, ror #8\n"          \
    "smlad r4, r2, r12, r4\n"           \
    "smlad r8, r2, lr, r8\n"            \
    "smlad r5, r3, r12, r5\n"           \
    "smlad r9, r3, lr, r9\n"            \
    "ldrd r2, r3, [r0, #" x2 "\n"       \
    "smlad r6, r2, r12, r6\n"           \
    "smlad r10, r2, lr, r10\n"          \
    "smlad r7, r3, r12, r7\n"           \
    "smlad r11, r3, lr, r11\n"
#define STEP_BYTES 48
#define STEPS 8

/* TFLite's two roundings for shifts of 1 or more: SMMLAR rounds the doubled product as the first one does, and the half
 * and the zero point of the second one come along with the accumulator; one less for negative sums sends their ties
 * away from zero. */
#define REQUANTIZE(sum, multiplier)                \
    "add r0, lr, " sum ", asr #31\n"               \
    "smmlar " sum ", " sum ", " multiplier ", r0\n" \
    "asr " sum ", " sum ", r12\n"                  \
    "ssat " sum ", #8, " sum "\n"

__attribute__((naked)) static void multiply_pairs(__attribute__((unused)) const frame_t *frame,
                                                  __attribute__((unused)) const int32_t *weights_less_4)
{
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "sub sp, #64\n"
        "mov r12, sp\n"
        "ldmia r0!, {r2-r9}\n"
        "stmia r12!, {r2-r9}\n"
        "ldmia r0, {r2-r9}\n"
        "stmia r12, {r2-r9}\n"
        "ldr r2, [sp, #8]\n"
        "adr.w r3, 2f\n"
        "add r2, r3\n"
        "orr r2, #1\n"
        "str r2, [sp, #8]\n"
        /* ---- the next two outputs ---- */
        "1:\n"
        "add r0, sp, #16\n"
        "ldm r0, {r4-r8}\n"
        "ldrd r12, lr, [r8], #8\n"
        "str r8, [sp, #32]\n"
        "lsl r8, lr, #1\n"
        "mov r9, r8\n"
        "mov r10, r8\n"
        "mov r11, r8\n"
        "add r12, r12, lr, lsl #8\n"
        "add r4, r4, r12, lsl #1\n"
        "add r5, r5, r12, lsl #1\n"
        "add r6, r6, r12, lsl #1\n"
        "add r7, r7, r12, lsl #1\n"
        "ldrd r0, r2, [sp, #0]\n"
        "sub r1, r1, r2\n"
        "ldr pc, [sp, #8]\n"
        ".balign 4\n"
        "2:\n"
        STEP("4]", "8", "16]")
        STEP("8]", "24", "32]")
        STEP("12]", "40", "48]")
        STEP("16]", "56", "64]")
        STEP("20]", "72", "80]")
        STEP("24]", "88", "96]")
        STEP("28]", "104", "112]")
        STEP("32]!", "120", "128]!")
        "ldr r2, [sp, #12]\n"
        "cmp r0, r2\n"
        "bne 2b\n"
        /* ---- exact sums of the first output, doubled as those of the second are ---- */
        "sub r4, r4, r8, lsl #8\n"
        "sub r5, r5, r9, lsl #8\n"
        "sub r6, r6, r10, lsl #8\n"
        "sub r7, r7, r11, lsl #8\n"
        "ldrd r0, lr, [sp, #36]\n"
        "ldrd r2, r3, [r0], #8\n"
        "ldrh r12, [lr], #2\n"
        "strd r0, lr, [sp, #36]\n"
        /* Shifts by a register take its low byte: both shifts stay in one. */
        "ldr lr, [sp, #44]\n"
        "lsl lr, lr, r12\n"
        "asr lr, lr, #1\n"
        REQUANTIZE("r4", "r2")
        REQUANTIZE("r5", "r2")
        REQUANTIZE("r6", "r2")
        REQUANTIZE("r7", "r2")
        "lsr r12, r12, #8\n"
        "ldr lr, [sp, #44]\n"
        "lsl lr, lr, r12\n"
        "asr lr, lr, #1\n"
        REQUANTIZE("r8", "r3")
        REQUANTIZE("r9", "r3")
        REQUANTIZE("r10", "r3")
        REQUANTIZE("r11", "r3")
        "add r0, sp, #48\n"
        "ldm r0, {r0, r2, r3, r12}\n"
        "strb r5, [r0, r2]\n"
        "strb r6, [r0, r2, lsl #1]\n"
        "strb r7, [r0, r3]\n"
        "strb r4, [r0], #1\n"
        "strb r9, [r0, r2]\n"
        "strb r10, [r0, r2, lsl #1]\n"
        "strb r11, [r0, r3]\n"
        "strb r8, [r0], #1\n"
        "str r0, [sp, #48]\n"
        "cmp r0, r12\n"
        "bne.w 1b\n"
        "add sp, #64\n"
        "pop {r4-r11, pc}\n");
}

/* The last of an odd number of outputs. */
static void multiply_last(const lab_dense_t *dense, const lab_block_t *block, const uint32_t *values, int8_t *output)
{
    const int32_t last = dense->outputs - 1;
    const int32_t words = lab_dense_padded(dense->inputs) / 2;
    const int32_t *const weights = dense->weights + last / 2 * words;
    const lab_requantization_t how = lab_dense_requantization(dense);
    for (int32_t row = 0; row < 4; row++) {
        int32_t sum = 0;
        for (int32_t i = 0; i < words; i++) {
            sum = __smlad((int16x2_t)values[4 * i + row], (int16x2_t)weights[i], sum);
        }
        sum = dense->bias[last] + sum / 2 - 128 * (int32_t)block->total[row];
        output[row * dense->outputs + last] = lab_requantize_int8(how, sum, last);
    }
}

void lab_block_multiply(const lab_dense_t *dense, const lab_block_t *block, const uint32_t *values, int8_t *output)
{
    const int32_t words = lab_dense_padded(dense->inputs) / 2;
    const uint32_t skipped = (uint32_t)(-words) % STEPS;
    const int32_t pairs = dense->outputs / 2;
    const frame_t frame = {
        .values = values - 2 - 4 * skipped,
        .skipped = 4 * skipped,
        .entry = STEP_BYTES * skipped,
        .end = values - 2 + 4 * words,
        .start = {0u - 256u * block->total[0], 0u - 256u * block->total[1], 0u - 256u * block->total[2],
                  0u - 256u * block->total[3]},
        .bias = dense->bias,
        .multiplier = dense->multiplier,
        .shift = dense->shift,
        .zero_point = 2 * dense->output_zero_point + 1,
        .output = output,
        .outputs = dense->outputs,
        .outputs3 = 3 * dense->outputs,
        .last = output + 2 * pairs,
    };
    if (pairs != 0) {
        multiply_pairs(&frame, dense->weights - 1);
    }
    if (dense->outputs & 1) {
        multiply_last(dense, block, values, output);
    }
    lab_dsp_clamp(output, 4 * dense->outputs, dense->output_minimum, dense->output_maximum);
}
