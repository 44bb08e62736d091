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
    uint32_t columns_back;    /* 20: bytes from there to the columns of the next channel */
    int32_t output_back;      /* 24: the same for the output */
    const uint32_t *weights;  /* 28: of the channel */
    const numbers_t *numbers; /* 32: of the channel */
    uint32_t step;            /* 36: bytes of columns from one output to the next */
    const uint32_t *last;     /* 40: columns of the channel behind the last */
    int32_t rows;             /* 44: of output left */
    int32_t output_on;        /* 48: bytes from behind the last channel to the next row */
    const uint32_t *columns;  /* 52 */
    int8_t *output;           /* 56 */
} sweep_t;

#define REQUANTIZE(sum)                       \
    "add r2, lr, " sum ", asr #31\n"          \
    "smmlar " sum ", " sum ", r12, r2\n"      \
    "asr " sum ", " sum ", r3\n"              \
    "ssat " sum ", #8, " sum "\n"

/* Rows of output of four channels, for 3 columns and 2 pairs of rows: six words of weights and the multiplier stay in
 * registers. At stride 1, outputs are computed in twos that share two of their columns. */
__attribute__((naked)) static void sweep_3(__attribute__((unused)) const sweep_t *sweep)
{
    __asm__ volatile(
        "push {r4-r11, lr}\n"
        "sub sp, #56\n"
        "ldmia r0, {r1-r12, lr}\n"
        "stmia sp, {r1-r12, lr}\n"
        "ldrd r0, r1, [r0, #52]\n"
        /* ---- the next channel ---- */
        "1:\n"
        "ldrd r2, r3, [sp, #28]\n"
        "ldmia r3!, {r4, r5, r12, lr}\n"
        "strd r4, r5, [sp]\n"
        "ldrd r4, r5, [r2], #12\n"
        "ldrd r6, r7, [r2, #36]\n"
        "ldrd r8, r9, [r2, #84]\n"
        "strd r2, r3, [sp, #28]\n"
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
        "ldrd r2, r3, [sp, #20]\n"
        "subs r0, r2\n"
        "subs r1, r3\n"
        "ldrd r2, r3, [sp, #12]\n"
        "adds r2, #8\n"
        "adds r3, #8\n"
        "strd r2, r3, [sp, #12]\n"
        "ldr r2, [sp, #40]\n"
        "cmp r0, r2\n"
        "bne 1b\n"
        /* ---- the next row: all channels back, and on to its weights ---- */
        "ldrd r2, r3, [sp, #44]\n"
        "subs r2, #1\n"
        "beq 8f\n"
        "str r2, [sp, #44]\n"
        "add r1, r3\n"
        "subs r0, #32\n"
        "ldrd r2, r3, [sp, #12]\n"
        "subs r2, #32\n"
        "subs r3, #32\n"
        "strd r2, r3, [sp, #12]\n"
        "ldrd r2, r3, [sp, #28]\n"
        "adds r2, #96\n"
        "subs r3, #64\n"
        "strd r2, r3, [sp, #28]\n"
        "b 1b\n"
        "8:\n"
        "add sp, #56\n"
        "pop {r4-r11, pc}\n");
}

/* Four channels of an image, the input or the weights, and where they are packed to. */
typedef struct {
    const int8_t *pixels;
    int32_t height, row_bytes, channels;
    const int8_t *outside; /* a pixel that stands for the rows outside */
    uint32_t *columns;     /* packed */
    int32_t slots;         /* words per packed column and channel */
    int32_t count;         /* of columns */
} image_t;

/* Rows top and top + 1 of the image into a slot. A row outside is a pixel that is read again and again: its step is 0. */
__attribute__((noinline)) static void pack_pair(const image_t *image, int32_t top, int32_t slot)
{
    const int32_t slots = image->slots;
    uint32_t *to = image->columns + slot;
    const uint32_t *const end = to + image->count * CHANNELS * slots;
    const int8_t *row0 = image->pixels + top * image->row_bytes;
    const int8_t *row1 = row0 + image->row_bytes;
    int32_t step0 = image->channels;
    int32_t step1 = image->channels;
    uint32_t a, b, c, d, e;
    if (image->count <= 0) {
        return;
    }
    if ((uint32_t)top >= (uint32_t)image->height) {
        row0 = image->outside;
        step0 = 0;
    }
    if ((uint32_t)top + 1u >= (uint32_t)image->height) {
        row1 = image->outside;
        step1 = 0;
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
                     "str %[b], [%[to], %[slots3], lsl #2]\n"
                     "str %[d], [%[to], %[slots], lsl #3]\n"
                     "str %[c], [%[to], %[slots], lsl #2]\n"
                     "str %[e], [%[to]]\n"
                     "add %[to], %[to], %[slots], lsl #4\n"
                     "cmp %[to], %[end]\n"
                     "bne 1b\n"
                     : [to] "+&r"(to), [row0] "+&r"(row0), [row1] "+&r"(row1), [a] "=&r"(a), [b] "=&r"(b),
                       [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e)
                     : [step0] "r"(step0), [step1] "r"(step1), [slots] "r"(slots), [slots3] "r"(3 * slots),
                       [end] "r"(end)
                     : "cc", "memory");
}

/* `count` columns from `first` on, outside the input, in all slots. */
static void fill_outside(const strip_t *strip, int32_t first, int32_t count)
{
    const image_t nothing = {
        .outside = (const int8_t *)&strip->outside,
        .columns = strip->columns + first * CHANNELS * strip->pairs,
        .slots = strip->pairs,
        .count = count,
    };
    for (int32_t slot = 0; slot < strip->pairs; slot++) {
        pack_pair(&nothing, 0, slot);
    }
}

/* Words of weights per column and channel: the pairs from the first to the last, and on from the first to the last but
 * one. From any of them on, the pairs follow each other in a circle, as the slots of the columns do. */
static inline int32_t circle(int32_t pairs)
{
    return 2 * pairs - 1;
}

/* Weights and numbers of four channels. */
__attribute__((noinline)) static void fill_weights(const strip_t *strip, int32_t channel)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t pairs = strip->pairs;
    const int32_t words = CHANNELS * circle(pairs) * layer->kernel_width;
    const uint32_t none = 0;
    image_t kernel = {
        .pixels = layer->weights + channel,
        .height = layer->kernel_height,
        .row_bytes = layer->kernel_width * layer->channels,
        .channels = layer->channels,
        .outside = (const int8_t *)&none,
        .columns = strip->weights,
        .slots = circle(pairs),
        .count = layer->kernel_width,
    };
    uint32_t *const end = strip->weights + strip->rows * words;
    for (int32_t row = 0; row < strip->rows; row++) {
        for (int32_t place = 0; place < circle(pairs); place++) {
            const int32_t pair = place < pairs ? place : place - pairs;
            pack_pair(&kernel, 2 * pair - row * layer->stride_height, place);
        }
        kernel.columns += words;
    }
    /* Doubled for the requantisation, and here, where they are fewest. */
    for (uint32_t *word = strip->weights; word != end; word += CHANNELS) {
        word[0] = (uint32_t)__sadd16((int16x2_t)word[0], (int16x2_t)word[0]);
        word[1] = (uint32_t)__sadd16((int16x2_t)word[1], (int16x2_t)word[1]);
        word[2] = (uint32_t)__sadd16((int16x2_t)word[2], (int16x2_t)word[2]);
        word[3] = (uint32_t)__sadd16((int16x2_t)word[3], (int16x2_t)word[3]);
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

/* What sweep_3 does, for any kernel width, stride and number of pairs. */
__attribute__((noinline)) static void sweep_any(const strip_t *strip, const sweep_t *sweep)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t pairs = strip->pairs;
    const uint32_t *weights_of = sweep->weights;
    int8_t *output_of = sweep->output;
    for (int32_t row = 0; row < sweep->rows; row++) {
        for (int32_t c = 0; c < CHANNELS; c++) {
            const numbers_t numbers = strip->numbers[c];
            const uint32_t *column = sweep->columns + c * pairs;
            int8_t *output = output_of + c;
            for (int32_t x = 0; x < layer->output_width; x++) {
                const uint32_t *weights = weights_of + c * circle(pairs);
                const uint32_t *values = column;
                int32_t sum = 0;
                for (int32_t kx = 0; kx < layer->kernel_width; kx++) {
                    for (int32_t slot = 0; slot < pairs; slot++) {
                        sum = __smlad((int16x2_t)values[slot], (int16x2_t)weights[slot], sum);
                    }
                    weights += CHANNELS * circle(pairs);
                    values += CHANNELS * pairs;
                }
                const int32_t scaled =
                    lab_requantize((sum + numbers.bias) / 2, numbers.multiplier, (uint32_t)numbers.shift);
                *output =
                    lab_clamp_int8(scaled + layer->output_zero_point, layer->output_minimum, layer->output_maximum);
                output += layer->channels;
                column += layer->stride_width * CHANNELS * pairs;
            }
        }
        output_of += layer->output_width * layer->channels;
        weights_of += layer->kernel_width * CHANNELS * circle(pairs);
    }
}

__attribute__((noinline)) static void convolve_four_channels(const strip_t *strip, const int8_t *input, int32_t channel,
                                                             int8_t *output)
{
    const lab_depthwise_conv2d_t *const layer = strip->layer;
    const int32_t advance = strip->rows * layer->stride_height;
    const int32_t pairs = strip->pairs;
    const int32_t room = strip->column_count - layer->pad_left;
    const image_t image = {
        .pixels = input + channel,
        .height = layer->input_height,
        .row_bytes = layer->input_width * layer->channels,
        .channels = layer->channels,
        .outside = (const int8_t *)&strip->outside,
        .columns = strip->columns + layer->pad_left * CHANNELS * pairs,
        .slots = pairs,
        .count = room < layer->input_width ? room : layer->input_width,
    };
    const int32_t step = layer->stride_width * CHANNELS * pairs;
    const int32_t together = layer->stride_width == 1 ? layer->output_width & ~1 : 0;
    const int32_t fast = layer->kernel_width == 3 && pairs == 2;
    sweep_t sweep; /* field by field: what an initialiser leaves out is cleared by a slow memset */
    sweep.channels = layer->channels;
    sweep.together = strip->columns + together * step;
    sweep.end = strip->columns + layer->output_width * step;
    sweep.columns_back = (uint32_t)(layer->output_width * step - pairs) * sizeof(uint32_t);
    sweep.output_back = layer->output_width * layer->channels - 1;
    sweep.numbers = strip->numbers;
    sweep.step = (uint32_t)step * sizeof(uint32_t);
    sweep.last = strip->columns + CHANNELS * pairs;
    sweep.output_on = layer->output_width * layer->channels - CHANNELS;
    sweep.columns = strip->columns;
    sweep.output = output + channel;
    int32_t packed = 0; /* pairs that the rows before have left */
    int32_t phase = 0;  /* slot of the topmost pair */
    fill_weights(strip, channel);
    for (int32_t y = 0; y < layer->output_height; y += strip->rows) {
        const int32_t top = y * layer->stride_height - layer->pad_top;
        const int32_t left = layer->output_height - y;
        for (int32_t pair = packed; pair < pairs; pair++) {
            const int32_t slot = phase + pair;
            pack_pair(&image, top + 2 * pair, slot < pairs ? slot : slot - pairs);
        }
        sweep.weights = strip->weights + (phase != 0 ? pairs - phase : 0);
        sweep.rows = left < strip->rows ? left : strip->rows;
        if (fast) {
            sweep_3(&sweep);
        } else {
            sweep_any(strip, &sweep);
        }
        sweep.output += strip->rows * layer->output_width * layer->channels;
        if (advance == 2) {
            packed = pairs - 1;
            phase = phase + 1 < pairs ? phase + 1 : 0;
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
        .numbers = (numbers_t *)(void *)(weights + rows * layer->kernel_width * CHANNELS * circle(pairs)),
        .column_count = columns,
        .pairs = pairs,
        .rows = rows,
        .outside = (uint32_t)(uint8_t)layer->input_zero_point * 0x01010101u,
    };
    const int32_t count = layer->channels & ~3;
    for (int32_t c = 0; c < count; c++) {
        if (layer->shift[c] < LAB_DSP_LEAST_SHIFT || layer->shift[c] > LAB_DSP_MOST_SHIFT) {
            return 0;
        }
    }
    if (count != 0) {
        const int32_t right = layer->pad_left + layer->input_width;
        fill_outside(&strip, 0, layer->pad_left < columns ? layer->pad_left : columns);
        fill_outside(&strip, right, columns - right);
    }
    for (int32_t c = 0; c < count; c += CHANNELS) {
        convolve_four_channels(&strip, input, c, output);
    }
    lab_dsp_clamp(output, layer->output_height * layer->output_width * layer->channels, layer->output_minimum,
                  layer->output_maximum);
    return count;
}
