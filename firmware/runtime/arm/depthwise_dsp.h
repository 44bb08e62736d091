/* Depthwise convolution with the DSP extension (Armv7E-M, Armv8-M Main), four channels at a time, straight in HWC. Included
 * by lab_depthwise_conv2d.c alone.
 *
 * Rows of the input are packed in pairs: a word holds one channel's values of two rows, which a dual multiply-accumulate
 * takes at once. PAIRS pairs cover the rows of a window, and of the next window below it where they reach that far: there
 * the same words are multiplied with the weights moved down by a row. Where windows advance by two rows, each pair is
 * packed once: the pairs form a ring, and `phase` is the slot of the topmost.
 * Scratch: the columns [columns][4 channels][pairs]; the weights, packed in the same way as an image of kernel_width columns,
 * for every row of output that the pairs serve; and per channel the numbers of its requantisation. */
#include <string.h>

#include <arm_acle.h>

#include "clamp_dsp.h"

#define CHANNELS 4

/* Of a channel. */
typedef struct {
    int32_t bias; /* doubled, as the weights are */
    int32_t shift;
    int32_t multiplier;
    int32_t rounding; /* zero point and half, raised by the shift */
} numbers_t;

typedef struct {
    const lab_depthwise_conv2d_t *layer;
    uint32_t *columns;
    uint32_t *weights;
    numbers_t *numbers;
    int32_t column_count;
    int32_t pairs; /* of rows, per window */
    int32_t rows;  /* of output that one set of pairs serves */
    uint32_t outside; /* zero points of four channels, as a pixel */
} strip_t;

/* What sweep_3 keeps on its stack; the numbers in its text are these offsets. */
typedef struct {
    int32_t bias, shift;      /* 0, 4: of the channel */
    int32_t channels;         /* 8: bytes from one pixel of output to the next */
    const uint32_t *together; /* 12: columns up to which the channel's outputs are computed in twos */
    const uint32_t *end;      /* 16: columns at which its outputs end */
    const uint32_t *columns;  /* 20: of the channel */
    int8_t *output;           /* 24: of the channel */
    const uint32_t *weights;  /* 28: of the channel */
    const numbers_t *numbers; /* 32: of the channel */
    uint32_t step;            /* 36: bytes of columns from one output to the next */
    uint32_t phase;           /* 40: slot of the upper pair, 0 or 1 */
    const uint32_t *last;     /* 44: columns of the channel behind the last */
} sweep_t;

#define REQUANTIZE(sum)                       \
    "add r2, lr, " sum ", asr #31\n"          \
    "smmlar " sum ", " sum ", r12, r2\n"      \
    "asr " sum ", " sum ", r3\n"              \
    "ssat " sum ", #8, " sum "\n"

/* One row of output of four channels, for 3 columns and 2 pairs of rows: six words of weights and the multiplier stay in
 * registers. At stride 1, outputs are computed in twos that share two of their columns. */
__attribute__((naked)) static void sweep_3(const sweep_t *sweep)
{
    (void)sweep;
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "sub sp, #48\n"
        "ldmia r0, {r1-r12}\n"
        "stmia sp, {r1-r12}\n"
        /* ---- the next channel ---- */
        "1:\n"
        "ldrd r2, r3, [sp, #28]\n"
        "ldmia r3!, {r0, r1, r12, lr}\n"
        "strd r0, r1, [sp]\n"
        "ldr r0, [sp, #40]\n"
        "cbnz r0, 6f\n"
        "ldrd r4, r5, [r2], #8\n"
        "ldrd r6, r7, [r2, #24]\n"
        "ldrd r8, r9, [r2, #56]\n"
        "b 2f\n"
        "6:\n"
        "ldrd r5, r4, [r2], #8\n"
        "ldrd r7, r6, [r2, #24]\n"
        "ldrd r9, r8, [r2, #56]\n"
        "2:\n"
        "strd r2, r3, [sp, #28]\n"
        "ldrd r0, r1, [sp, #20]\n"
        "ldr r3, [sp, #12]\n"
        "cmp r0, r3\n"
        "beq 4f\n"
        /* ---- two outputs ---- */
        "3:\n"
        "ldr r11, [sp]\n"
        "ldrd r2, r3, [r0]\n"
        "smlad r10, r2, r4, r11\n"
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
        "ldrd r2, r3, [sp, #8]\n"
        "strb r10, [r1]\n"
        "strb r11, [r1, r2]\n"
        "add r1, r1, r2, lsl #1\n"
        "cmp r0, r3\n"
        "bne 3b\n"
        "4:\n"
        "ldr r3, [sp, #16]\n"
        "cmp r0, r3\n"
        "beq 7f\n"
        /* ---- one output ---- */
        "5:\n"
        "ldr r10, [sp]\n"
        "ldrd r2, r3, [r0]\n"
        "smlad r10, r2, r4, r10\n"
        "smlad r10, r3, r5, r10\n"
        "ldrd r2, r3, [r0, #32]\n"
        "smlad r10, r2, r6, r10\n"
        "smlad r10, r3, r7, r10\n"
        "ldrd r2, r3, [r0, #64]\n"
        "smlad r10, r2, r8, r10\n"
        "smlad r10, r3, r9, r10\n"
        "ldr r3, [sp, #4]\n"
        REQUANTIZE("r10")
        "ldr r2, [sp, #8]\n"
        "strb r10, [r1]\n"
        "add r1, r2\n"
        "ldr r3, [sp, #36]\n"
        "add r0, r3\n"
        "ldr r3, [sp, #16]\n"
        "cmp r0, r3\n"
        "bne 5b\n"
        "7:\n"
        "ldrd r2, r3, [sp, #12]\n"
        "adds r2, #8\n"
        "adds r3, #8\n"
        "strd r2, r3, [sp, #12]\n"
        "ldrd r0, r1, [sp, #20]\n"
        "adds r0, #8\n"
        "adds r1, #1\n"
        "strd r0, r1, [sp, #20]\n"
        "ldr r2, [sp, #44]\n"
        "cmp r0, r2\n"
        "bne 1b\n"
        "add sp, #48\n"
        "pop {r4-r11, pc}\n");
}

/* Two rows of four channels into slot `slot` of the columns [first, first + count) of `pairs` words per channel. A row
 * outside is a pixel that is read again and again: its step is 0. */
static void pack_rows(uint32_t *columns, int32_t pairs, int32_t slot, const int8_t *const rows[2],
                      const int32_t steps[2], int32_t first, int32_t count)
{
    uint32_t *to = columns + first * CHANNELS * pairs + slot;
    const uint32_t *const end = to + count * CHANNELS * pairs;
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
                     "str %[b], [%[to], %[words3], lsl #2]\n"
                     "str %[d], [%[to], %[words], lsl #3]\n"
                     "str %[c], [%[to], %[words], lsl #2]\n"
                     "str %[e], [%[to]]\n"
                     "add %[to], %[to], %[words], lsl #4\n"
                     "cmp %[to], %[end]\n"
                     "bne 1b\n"
                     : [to] "+&r"(to), [row0] "+&r"(row0), [row1] "+&r"(row1), [a] "=&r"(a), [b] "=&r"(b),
                       [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e)
                     : [step0] "r"(steps[0]), [step1] "r"(steps[1]), [words] "r"(pairs), [words3] "r"(3 * pairs),
                       [end] "r"(end)
                     : "cc", "memory");
}

/* Rows top and top + 1 of four channels of an image into a slot; `outside` stands for a row outside. */
static void pack_pair(uint32_t *columns, int32_t pairs, int32_t slot, const int8_t *image, int32_t height,
                      int32_t row_bytes, int32_t channels, int32_t top, const uint32_t *outside, int32_t first,
                      int32_t count)
{
    const int8_t *rows[2];
    int32_t steps[2];
    for (int32_t i = 0; i < 2; i++) {
        const int inside = (uint32_t)(top + i) < (uint32_t)height;
        rows[i] = inside ? image + (top + i) * row_bytes : (const int8_t *)outside;
        steps[i] = inside ? channels : 0;
    }
    pack_rows(columns, pairs, slot, rows, steps, first, count);
}

/* The columns left and right of the input, in all slots. */
static void fill_outside(const strip_t *strip)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int8_t *const rows[2] = {(const int8_t *)&strip->outside, (const int8_t *)&strip->outside};
    const int32_t steps[2] = {0, 0};
    const int32_t right = layer->pad_left + layer->input_width;
    const int32_t left = layer->pad_left < strip->column_count ? layer->pad_left : strip->column_count;
    for (int32_t slot = 0; slot < strip->pairs; slot++) {
        pack_rows(strip->columns, strip->pairs, slot, rows, steps, 0, left);
        pack_rows(strip->columns, strip->pairs, slot, rows, steps, right, strip->column_count - right);
    }
}

/* Weights and numbers of four channels. */
static void fill_weights(const strip_t *strip, int32_t channel)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t words = CHANNELS * strip->pairs * layer->kernel_width;
    const uint32_t none = 0;
    for (int32_t row = 0; row < strip->rows; row++) {
        for (int32_t pair = 0; pair < strip->pairs; pair++) {
            pack_pair(strip->weights + row * words, strip->pairs, pair, layer->weights + channel, layer->kernel_height,
                      layer->kernel_width * layer->channels, layer->channels, 2 * pair - row * layer->stride_height,
                      &none, 0, layer->kernel_width);
        }
    }
    /* Doubled for the requantisation, and here, where they are fewest. */
    for (uint32_t *word = strip->weights; word != strip->weights + strip->rows * words; word++) {
        *word = (uint32_t)__sadd16((int16x2_t)*word, (int16x2_t)*word);
    }
    for (int32_t c = 0; c < CHANNELS; c++) {
        /* As in arm/block_dsp.h. */
        const int32_t shift = layer->shift[channel + c];
        strip->numbers[c].bias = 2 * layer->bias[channel + c];
        strip->numbers[c].shift = shift;
        strip->numbers[c].multiplier = layer->multiplier[channel + c];
        strip->numbers[c].rounding = (2 * layer->output_zero_point + 1) * (1 << (shift - 1));
    }
}

/* One row of output of four channels, any kernel width, stride and number of pairs. */
static void sweep_any(const strip_t *strip, const sweep_t *sweep)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t pairs = strip->pairs;
    const int32_t phase = (int32_t)sweep->phase;
    for (int32_t c = 0; c < CHANNELS; c++) {
        const numbers_t numbers = strip->numbers[c];
        const uint32_t *column = sweep->columns + c * pairs;
        int8_t *output = sweep->output + c;
        for (int32_t x = 0; x < layer->output_width; x++) {
            const uint32_t *weights = sweep->weights + c * pairs;
            const uint32_t *values = column;
            int32_t sum = 0;
            for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                for (int32_t pair = 0; pair < pairs; pair++) {
                    const int32_t slot = pair + phase < pairs ? pair + phase : pair + phase - pairs;
                    sum = __smlad((int16x2_t)values[slot], (int16x2_t)weights[pair], sum);
                }
                weights += CHANNELS * pairs;
                values += CHANNELS * pairs;
            }
            const int32_t scaled =
                lab_requantize((sum + numbers.bias) / 2, numbers.multiplier, (uint32_t)numbers.shift);
            *output = lab_clamp_int8(scaled + layer->output_zero_point, layer->output_minimum, layer->output_maximum);
            output += layer->channels;
            column += layer->stride_width * CHANNELS * pairs;
        }
    }
}

static void convolve_four_channels(const strip_t *strip, const int8_t *input, int32_t channel, int8_t *output)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t advance = strip->rows * layer->stride_height;
    const int32_t pairs = strip->pairs;
    const int32_t row_bytes = layer->input_width * layer->channels;
    const int32_t room = strip->column_count - layer->pad_left;
    const int32_t columns = room < layer->input_width ? room : layer->input_width;
    const int32_t step = layer->stride_width * CHANNELS * pairs;
    const int32_t together = layer->stride_width == 1 ? layer->output_width & ~1 : 0;
    const int32_t fast = layer->kernel_width == 3 && pairs == 2;
    sweep_t sweep = {
        .channels = layer->channels,
        .together = strip->columns + together * step,
        .end = strip->columns + layer->output_width * step,
        .columns = strip->columns,
        .output = output + channel,
        .numbers = strip->numbers,
        .step = (uint32_t)step * sizeof(uint32_t),
        .phase = 0,
        .last = strip->columns + CHANNELS * pairs,
    };
    int32_t packed = 0; /* pairs that the rows before have left */
    fill_weights(strip, channel);
    for (int32_t y = 0; y < layer->output_height; y += strip->rows) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        const int32_t left = layer->output_height - y;
        for (int32_t pair = packed; pair < pairs; pair++) {
            const int32_t slot = (int32_t)sweep.phase + pair;
            pack_pair(strip->columns, pairs, slot < pairs ? slot : slot - pairs, input + channel, layer->input_height,
                      row_bytes, layer->channels, top + 2 * pair, &strip->outside, layer->pad_left, columns);
        }
        sweep.weights = strip->weights;
        for (int32_t row = 0; row < (left < strip->rows ? left : strip->rows); row++) {
            if (fast) {
                sweep_3(&sweep);
            } else {
                sweep_any(strip, &sweep);
            }
            sweep.output += layer->output_width * layer->channels;
            sweep.weights += CHANNELS * pairs * layer->kernel_width;
        }
        if (advance == 2) {
            packed = pairs - 1;
            sweep.phase = (int32_t)sweep.phase + 1 < pairs ? sweep.phase + 1 : 0;
        }
    }
}

/* The channels up to the last multiple of four, exactly where their shifts are from 1 to 22; returns how many. */
static int32_t convolve_fast(const lab_depthwise_conv2d_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    const int32_t pairs = (layer->kernel_height + 1) / 2;
    const int32_t columns = (layer->output_width - 1) * layer->stride_width + layer->kernel_width;
    const int32_t rows = (2 * pairs - layer->kernel_height) / layer->stride_height + 1;
    uint32_t *const words = (uint32_t *)(void *)scratch;
    uint32_t *const weights = words + columns * CHANNELS * pairs;
    const strip_t strip = {
        .layer = layer,
        .columns = words,
        .weights = weights,
        .numbers = (numbers_t *)(void *)(weights + rows * layer->kernel_width * CHANNELS * pairs),
        .column_count = columns,
        .pairs = pairs,
        .rows = rows,
        .outside = (uint32_t)(uint8_t)layer->input_zero_point * 0x01010101u,
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
