/* Depthwise convolution with the DSP extension (Armv7E-M, Armv8-M Main), four channels at a time, straight in HWC. Included
 * by lab_depthwise_conv2d.c alone.
 *
 * Rows of the input are packed in pairs: a word holds one channel's values of two rows, which a dual multiply-accumulate
 * takes at once. PAIRS pairs cover the rows of a window, and of the next window below it where they reach that far: there
 * the same words are multiplied with the weights moved down by a row. Where windows advance by two rows, each pair is
 * packed once: the pairs form a ring, and `phase` is the slot of the topmost.
 * Scratch: the columns [columns][4 channels][pairs], then for every phase, row of the group and channel the weights
 * [kernel_width][pairs] and four words of requantisation. */
#include <string.h>

#include <arm_acle.h>

#include "clamp_dsp.h"

#define CHANNELS 4
#define REQUANTIZATION_WORDS 4

typedef struct {
    const lab_depthwise_conv2d_t *layer;
    uint32_t *columns;
    uint32_t *table;
    int32_t column_count;
    int32_t pairs;        /* of rows, per window */
    int32_t rows;         /* of output that one set of pairs serves */
    int32_t phases;       /* in the table */
    int32_t record_words; /* of the table */
    uint32_t outside[2];  /* zero points of four channels, as a pixel */
} strip_t;

/* What sweep_3x3 keeps on its stack; the numbers in its text are these offsets. */
typedef struct {
    int32_t bias;            /* 0: doubled; of the channel */
    int32_t shift;           /* 4 */
    int32_t channels;        /* 8: bytes from one pixel of output to the next */
    const uint32_t *pause;   /* 12: columns at which the channel's pairs of outputs end */
    const uint32_t *table;   /* 16: of the next channel */
    const uint32_t *columns; /* 20: of the next channel */
    int8_t *output;          /* 24: of the next channel */
    const uint32_t *last;    /* 28: columns of the channel behind the last */
    uint32_t pairs;          /* 32: bytes of columns that pairs of outputs take */
    uint32_t odd;            /* 36: bytes of a column if there is an output left, else 0 */
} sweep_t;

#define REQUANTIZE(sum)                       \
    "add r2, lr, " sum ", asr #31\n"          \
    "smmlar " sum ", " sum ", r12, r2\n"      \
    "asr " sum ", " sum ", r3\n"              \
    "ssat " sum ", #8, " sum "\n"

/* One row of output of four channels, for 3 columns and 2 pairs of rows at stride 1: six words of weights and the multiplier
 * stay in registers, two neighbouring outputs share their columns. An odd last output is computed with its left
 * neighbour, once more. */
__attribute__((naked)) static void sweep_3x3(const sweep_t *sweep)
{
    (void)sweep;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "sub sp, #40\n"
        "ldmia r0, {r1-r10}\n"
        "stmia sp, {r1-r10}\n"
        /* ---- the next channel ---- */
        "1:\n"
        "ldr r2, [sp, #16]\n"
        "ldmia r2!, {r4-r9, r12, lr}\n"
        "ldrd r0, r1, [r2], #8\n"
        "str r2, [sp, #16]\n"
        "strd r0, r1, [sp]\n"
        "ldrd r0, r1, [sp, #20]\n"
        "ldr r2, [sp, #32]\n"
        "add r2, r2, r0\n"
        "str r2, [sp, #12]\n"
        /* ---- two outputs ---- */
        "2:\n"
        "ldr r10, [sp]\n"
        "mov r11, r10\n"
        "ldrd r2, r3, [r0]\n"
        "smlad r10, r2, r4, r10\n"
        "smlad r10, r3, r5, r10\n"
        "ldrd r2, r3, [r0, #32]\n"
        "smlad r10, r2, r6, r10\n"
        "smlad r10, r3, r7, r10\n"
        "smlad r11, r2, r4, r11\n"
        "smlad r11, r3, r5, r11\n"
        "ldrd r2, r3, [r0, #64]!\n"
        "smlad r10, r2, r8, r10\n"
        "smlad r10, r3, r9, r10\n"
        "smlad r11, r2, r6, r11\n"
        "smlad r11, r3, r7, r11\n"
        "ldrd r2, r3, [r0, #32]\n"
        "smlad r11, r2, r8, r11\n"
        "smlad r11, r3, r9, r11\n"
        "ldr r3, [sp, #4]\n"
        REQUANTIZE("r10")
        REQUANTIZE("r11")
        "ldr r2, [sp, #8]\n"
        "strb r10, [r1]\n"
        "strb r11, [r1, r2]\n"
        "add r1, r1, r2, lsl #1\n"
        "ldr r3, [sp, #12]\n"
        "cmp r0, r3\n"
        "bne 2b\n"
        /* ---- an odd one: go one column and one output back, for one more pair ---- */
        "ldr r3, [sp, #36]\n"
        "ldr r10, [sp, #20]\n"
        "ldr r11, [sp, #32]\n"
        "add r11, r11, r10\n"
        "add r11, r11, r3\n"
        "cmp r0, r11\n"
        "beq 3f\n"
        "str r11, [sp, #12]\n"
        "sub r0, r0, r3\n"
        "sub r1, r1, r2\n"
        "b 2b\n"
        "3:\n"
        "add r10, #8\n"
        "ldrd r2, r3, [sp, #24]\n"
        "add r2, #1\n"
        "strd r10, r2, [sp, #20]\n"
        "cmp r10, r3\n"
        "bne 1b\n"
        "add sp, #40\n"
        "pop {r4-r11, pc}\n");
}

/* Two rows of four channels into slot `slot` of the columns [first, first + count). A row outside is a pixel that is read
 * again and again: its step is 0. */
static void pack_rows(const strip_t *strip, int32_t slot, const int8_t *const rows[2], const int32_t steps[2],
                      int32_t first, int32_t count)
{
    uint32_t *to = strip->columns + first * CHANNELS * strip->pairs + slot;
    const uint32_t *const end = to + count * CHANNELS * strip->pairs;
    const int8_t *row0 = rows[0];
    const int8_t *row1 = rows[1];
    uint32_t a, b, c, d, e;
    if (count <= 0) {
        return;
    }
    __asm__ volatile("1:\n"
            "ldr %[a], [%[row0]]\n"
            "ldr %[b], [%[row1]]\n"
            "add %[row0], %[step0]\n"
            "add %[row1], %[step1]\n"
            "sxtb16 %[c], %[a]\n"
            "sxtb16 %[a], %[a], ror #8\n"
            "sxtb16 %[d], %[b]\n"
            "sxtb16 %[b], %[b], ror #8\n"
            "pkhbt %[e], %[c], %[d], lsl #16\n"
            "pkhtb %[d], %[d], %[c], asr #16\n"
            "pkhbt %[c], %[a], %[b], lsl #16\n"
            "pkhtb %[b], %[b], %[a], asr #16\n"
            "str %[e], [%[to]]\n"
            "str %[c], [%[to], %[words], lsl #2]\n"
            "str %[d], [%[to], %[words], lsl #3]\n"
            "add %[to], %[to], %[words], lsl #3\n"
            "str %[b], [%[to], %[words], lsl #2]\n"
            "add %[to], %[to], %[words], lsl #3\n"
            "cmp %[to], %[end]\n"
            "bne 1b\n"
            : [to] "+&r"(to), [row0] "+&r"(row0), [row1] "+&r"(row1), [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c),
              [d] "=&r"(d), [e] "=&r"(e)
            : [step0] "r"(steps[0]), [step1] "r"(steps[1]), [words] "r"(strip->pairs), [end] "r"(end)
            : "cc", "memory");
}

/* Input rows top and top + 1 of four channels into a slot; the columns outside were filled before. */
static void pack_pair(const strip_t *strip, const int8_t *input, int32_t top, int32_t slot)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int8_t *rows[2];
    int32_t steps[2];
    for (int32_t i = 0; i < 2; i++) {
        const int inside = top + i >= 0 && top + i < layer->input_height;
        rows[i] = inside ? input + (top + i) * layer->input_width * layer->channels : (const int8_t *)strip->outside;
        steps[i] = inside ? layer->channels : 0;
    }
    const int32_t room = strip->column_count - layer->pad_left;
    pack_rows(strip, slot, rows, steps, layer->pad_left, room < layer->input_width ? room : layer->input_width);
}

/* The columns left and right of the input, in all slots. */
static void fill_outside(const strip_t *strip)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int8_t *const rows[2] = {(const int8_t *)strip->outside, (const int8_t *)strip->outside};
    const int32_t steps[2] = {0, 0};
    const int32_t right = layer->pad_left + layer->input_width;
    const int32_t left = layer->pad_left < strip->column_count ? layer->pad_left : strip->column_count;
    for (int32_t slot = 0; slot < strip->pairs; slot++) {
        pack_rows(strip, slot, rows, steps, 0, left);
        pack_rows(strip, slot, rows, steps, right, strip->column_count - right);
    }
}

/* A record: the channel's doubled weights as the slots of the columns want them, and its requantisation. */
static void fill_record(const strip_t *strip, int32_t phase, int32_t row, int32_t channel, uint32_t *record)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t weight_words = layer->kernel_width * strip->pairs;
    const int8_t *weight = layer->weights + channel;
    int32_t place = row * layer->stride_height + 2 * phase; /* half word of the column that the next row goes to */
    for (int32_t i = 0; i < weight_words; i++) {
        record[i] = 0;
    }
    for (int32_t ky = 0; ky < layer->kernel_height; ky++) {
        place = place < 2 * strip->pairs ? place : place - 2 * strip->pairs;
        int8_t *to = (int8_t *)record + 2 * place;
        for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
            const int16_t doubled = (int16_t)(2 * *weight);
            memcpy(to, &doubled, sizeof doubled);
            to += 4 * strip->pairs;
            weight += layer->channels;
        }
        place++;
    }
    record += weight_words;
    /* As in arm/block_dsp.h. */
    record[0] = (uint32_t)layer->multiplier[channel];
    record[1] = (uint32_t)((2 * layer->output_zero_point + 1) * (1 << layer->shift[channel]) / 2);
    record[2] = 2u * (uint32_t)layer->bias[channel];
    record[3] = layer->shift[channel];
}

static void fill_table(const strip_t *strip, int32_t channel)
{
    uint32_t *record = strip->table;
    for (int32_t phase = 0; phase < strip->phases; phase++) {
        for (int32_t row = 0; row < strip->rows; row++) {
            for (int32_t c = channel; c < channel + CHANNELS; c++) {
                fill_record(strip, phase, row, c, record);
                record += strip->record_words;
            }
        }
    }
}

/* One row of output of four channels, any kernel width, stride and number of pairs. */
static void sweep_any(const strip_t *strip, int32_t phase, int32_t row, int32_t channel, int8_t *output)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const lab_requantization_t how = {
        .multiplier = layer->multiplier + channel,
        .shift = layer->shift + channel,
        .zero_point = layer->output_zero_point,
        .minimum = layer->output_minimum,
        .maximum = layer->output_maximum,
    };
    for (int32_t c = 0; c < CHANNELS; c++) {
        const uint32_t *column = strip->columns + c * strip->pairs;
        for (int32_t x = 0; x < layer->output_width; x++) {
            const uint32_t *weights = strip->table + (row * CHANNELS + c) * strip->record_words;
            const uint32_t *values = column;
            int32_t sum = 0;
            for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                for (int32_t slot = phase; slot < strip->pairs; slot++) {
                    sum = __smlad((int16x2_t)values[slot], (int16x2_t)*weights++, sum);
                }
                for (int32_t slot = 0; slot < phase; slot++) {
                    sum = __smlad((int16x2_t)values[slot], (int16x2_t)*weights++, sum);
                }
                values += CHANNELS * strip->pairs;
            }
            output[x * layer->channels + c] = lab_requantize_int8(how, layer->bias[channel + c] + sum / 2, c);
            column += layer->stride_width * CHANNELS * strip->pairs;
        }
    }
}

/* `count` rows of output of four channels. */
static void sweep_rows(const strip_t *strip, int32_t phase, int32_t count, int32_t channel, int8_t *output)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int fast = layer->kernel_width == 3 && layer->stride_width == 1 && strip->pairs == 2 && layer->output_width > 1;
    for (int32_t row = 0; row < count; row++) {
        if (fast) {
            const sweep_t sweep = {
                .channels = layer->channels,
                .table = strip->table + (phase * strip->rows + row) * CHANNELS * strip->record_words,
                .columns = strip->columns,
                .output = output,
                .last = strip->columns + CHANNELS * 2,
                .pairs = (uint32_t)layer->output_width / 2 * 64,
                .odd = layer->output_width % 2 * 32,
            };
            sweep_3x3(&sweep);
        } else {
            sweep_any(strip, phase, row, channel, output);
        }
        output += layer->output_width * layer->channels;
    }
}

static void convolve_four_channels(const strip_t *strip, const int8_t *input, int32_t channel, int8_t *output)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t advance = strip->rows * layer->stride_height;
    int32_t phase = 0;
    fill_table(strip, channel);
    for (int32_t y = 0; y < layer->output_height; y += strip->rows) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        const int32_t left = layer->output_height - y;
        /* What the rows before have packed already, where windows advance by one pair. */
        int32_t pair = y != 0 && advance == 2 ? strip->pairs - 1 : 0;
        for (; pair < strip->pairs; pair++) {
            const int32_t slot = phase + pair;
            pack_pair(strip, input + channel, top + 2 * pair, slot < strip->pairs ? slot : slot - strip->pairs);
        }
        sweep_rows(strip, phase, left < strip->rows ? left : strip->rows, channel, output + channel);
        output += strip->rows * layer->output_width * layer->channels;
        if (advance == 2) {
            phase = phase + 1 < strip->pairs ? phase + 1 : 0;
        }
    }
}

/* The channels up to the last multiple of four, exactly where their shifts are from 1 to 22; returns how many. */
static int32_t convolve_fast(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const int32_t pairs = (layer->kernel_height + 1) / 2;
    const int32_t columns = (layer->output_width - 1) * layer->stride_width + layer->kernel_width;
    const uint32_t outside = (uint32_t)(uint8_t)layer->input_zero_point * 0x01010101u;
    const strip_t strip = {
        .layer = layer,
        .columns = (uint32_t *)(void *)scratch,
        .table = (uint32_t *)(void *)scratch + columns * CHANNELS * pairs,
        .column_count = columns,
        .pairs = pairs,
        .rows = (2 * pairs - layer->kernel_height) / layer->stride_height + 1,
        .phases = pairs == 2 ? 2 : 1,
        .record_words = layer->kernel_width * pairs + REQUANTIZATION_WORDS,
        .outside = {outside, outside},
    };
    const int32_t count = layer->channels & ~3;
    for (int32_t c = 0; c < count; c++) {
        if (layer->shift[c] < 1 || layer->shift[c] > 22) {
            return 0;
        }
    }
    if (count != 0) {
        fill_outside(&strip);
    }
    for (int32_t c = 0; c < count; c += CHANNELS) {
        convolve_four_channels(&strip, input, c, output);
    }
    lab_dsp_clamp(output, layer->output_height * layer->output_width * layer->channels, layer->output_minimum,
                  layer->output_maximum);
    return count;
}
