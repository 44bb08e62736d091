/* Batch norm of one int8 sample that leans on the sample's own statistics (LeanTTA, arXiv:2503.15889, algorithm 1; alpha-BN
 * where balance is 0), and a clamp. Every step is an integer one: all machines yield the same bytes.
 *
 * Of every channel: mean and variance over its pixels, in steps of the input. A share w of them takes the source's place:
 * mean = source + w (own - source), and so the variance. w = (1 - tau) (1 - a), a = balance (1 - exp(-sum of
 * (distance (own mean - source's))^2)): the further the sample lies from the source, the more of the source stays.
 * output = slope / sqrt(variance) * (q - mean) + offset.
 *
 * input, output [pixels][channels]; pixels at most 65536. Scratch, 4-byte aligned: 8 * channels bytes.
 * output may be input; scratch overlaps neither. */
#ifndef LAB_SAMPLE_NORM_H
#define LAB_SAMPLE_NORM_H

#include <stdint.h>

typedef struct {
    const int32_t *mean;       /* of the source, steps of the input, zero point included, Q12 */
    const int32_t *variance;   /* of the source, squared steps, Q16 */
    const int32_t *floor;      /* variance and epsilon, Q16; below 2^30 */
    const int32_t *distance;   /* (1 - tau) / standard deviation of the source, Q20 */
    const int32_t *multiplier; /* Q31, of slope * 2^-20; negative where the slope is */
    const int8_t *shift;       /* to the right, not negative */
    const int32_t *offset;     /* with the output's zero point and half a step, Q16 */
    int32_t pixels, channels;
    int32_t share;   /* 1 - tau, Q31 */
    int32_t balance; /* Q31 */
    int32_t output_minimum, output_maximum;
} lab_sample_norm_t;

void lab_sample_norm(const lab_sample_norm_t *layer, const int8_t *input, int8_t *output, int8_t *scratch);

#endif
