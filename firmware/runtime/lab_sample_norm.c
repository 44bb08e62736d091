#include "lab_sample_norm.h"

#include "lab_fixed_point.h"
#include "lab_rescale.h"

#define MEAN_BITS 12
#define VARIANCE_BITS 16
#define LINE_BITS 16 /* of slope and offset per step */
#define MOST_VARIANCE ((1 << 30) - 1)
#define MOST_SLOPE (1 << 22) /* times a step of 128 below 2^29 */
#define MOST_OFFSET (1 << 30)
#define FAR (6 * (1 << 16)) /* exp(-36) is nothing in Q31 */
#define NOTHING_LEFT (31 * (1 << 26))

/* A channel's statistics over the pixels. */
typedef struct {
    int32_t mean;     /* Q12 */
    int32_t variance; /* Q16 */
} moments_t;

/* The line slope * q + offset that normalises a channel. */
typedef struct {
    int32_t slope, offset; /* Q16 */
} line_t;

static int32_t clamped(int64_t value, int32_t most)
{
    if (value > most) {
        return most;
    }
    return value < -most ? -most : (int32_t)value;
}

/* Mean and variance of a channel over the pixels; exact sums, divided once. */
static moments_t moments(const int8_t *input, int32_t pixels, int32_t channels)
{
    int32_t sum = 0, squares = 0;
    for (int32_t i = 0; i < pixels; i++) {
        const int32_t q = *input;
        sum += q;
        squares += q * q;
        input += channels;
    }
    const int64_t spread = (int64_t)squares * pixels - (int64_t)sum * sum;
    moments_t found;
    found.mean = (int32_t)((int64_t)sum * (1 << MEAN_BITS) / pixels);
    found.variance = (int32_t)(spread * (1 << VARIANCE_BITS) / ((int64_t)pixels * pixels));
    return found;
}

/* w: how much of the sample's statistics takes the source's place, Q31. */
static int32_t share_of_sample(const lab_sample_norm_t *layer, const moments_t *seen)
{
    int64_t squared = 0; /* Q32 */
    for (int32_t c = 0; c < layer->channels; c++) {
        const int64_t moved = (int64_t)(seen[c].mean - layer->mean[c]) * layer->distance[c];
        const int64_t off = clamped(moved >> 16, FAR); /* Q12 and Q20 make Q32; this is Q16 */
        squared += off * off;
    }
    squared >>= 6; /* Q26 */
    const int32_t exponent = squared > NOTHING_LEFT ? NOTHING_LEFT : (int32_t)squared;
    const int32_t near = lab_q31_exp_of_negative(-exponent);
    const int32_t kept = lab_q31_multiply(layer->balance, INT32_MAX - near);
    return lab_q31_multiply(layer->share, INT32_MAX - kept);
}

/* The line that normalises a channel by w of its own statistics. */
static line_t line_of(const lab_sample_norm_t *layer, int32_t c, moments_t seen, int32_t w)
{
    const int32_t mean = layer->mean[c] + lab_q31_multiply(w, seen.mean - layer->mean[c]);
    int32_t variance = clamped((int64_t)layer->floor[c] + lab_q31_multiply(w, seen.variance - layer->variance[c]),
                               MOST_VARIANCE);
    variance = variance < 1 ? 1 : variance;
    int32_t doublings = 0;
    while (variance < (1 << 28)) {
        variance *= 4;
        doublings++;
    }
    line_t line;
    const int32_t root = lab_reciprocal_root(variance);
    line.slope = clamped(lab_rescale_value(root, layer->multiplier[c], layer->shift[c] - doublings), MOST_SLOPE);
    line.offset = clamped(layer->offset[c] - (((int64_t)line.slope * mean) >> MEAN_BITS), MOST_OFFSET);
    return line;
}

static void apply(const lab_sample_norm_t *layer, line_t line, const int8_t *input, int8_t *output)
{
    const int32_t channels = layer->channels, minimum = layer->output_minimum, maximum = layer->output_maximum;
    for (int32_t i = layer->pixels; i > 0; i--) {
        *output = lab_clamp_int8((line.slope * *input + line.offset) >> LINE_BITS, minimum, maximum);
        input += channels;
        output += channels;
    }
}

void lab_sample_norm(const lab_sample_norm_t *layer, const int8_t *input, int8_t *output, int8_t *scratch)
{
    moments_t *const seen = (moments_t *)(void *)scratch;
    for (int32_t c = 0; c < layer->channels; c++) {
        seen[c] = moments(input + c, layer->pixels, layer->channels);
    }
    const int32_t w = share_of_sample(layer, seen);
    for (int32_t c = 0; c < layer->channels; c++) {
        apply(layer, line_of(layer, c, seen[c], w), input + c, output + c);
    }
}
