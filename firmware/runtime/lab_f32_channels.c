#include "lab_f32_channels.h"

#include "lab_f32_arithmetic.h"

#if LAB_F32_THUMB_FPU

#include "arm/lab_f32_channels_arm.h"

static int32_t whole_blocks(const lab_f32_channels_t *walk, const float *a, const float *b, int32_t channels,
                            const float *start, float *sums)
{
    int32_t done = 0;
    if (channels == LAB_F32_CHANNELS) {
        channels_16(walk, a, b, sums, start);
        return channels;
    }
    if (channels >= 8) {
        channels_8(walk, a, b, sums, start);
        done = 8;
    }
    if (channels - done >= 4) {
        channels_4(walk, a + done, b + done, sums + done, start + done);
        done += 4;
    }
    return done;
}

#else

static int32_t whole_blocks(const lab_f32_channels_t *walk, const float *a, const float *b, int32_t channels,
                            const float *start, float *sums)
{
    (void)walk, (void)a, (void)b, (void)channels, (void)start, (void)sums;
    return 0;
}

#endif

void lab_f32_channels(const lab_f32_channels_t *walk, const float *a, const float *b, int32_t channels,
                      const float *start, float *sums)
{
    const int32_t done = walk->outer > 0 ? whole_blocks(walk, a, b, channels, start, sums) : 0;
    if (done == channels) {
        return;
    }
    for (int32_t c = done; c < channels; c++) {
        sums[c] = start[c];
    }
    for (int32_t outer = 0; outer < walk->outer; outer++) {
        for (int32_t inner = 0; inner < walk->inner; inner++) {
            const float *const left = a + outer * walk->a_outer + inner * walk->a_inner;
            const float *const right = b + outer * walk->b_outer + inner * walk->b_inner;
            for (int32_t c = done; c < channels; c++) {
                sums[c] = LAB_MULTIPLY_ADD(left[c], right[c], sums[c]);
            }
        }
    }
}
