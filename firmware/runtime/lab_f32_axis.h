/* One axis of a convolution: which taps of the kernel a position uses, and what they meet.
 *
 * A forward pass and an input gradient are the same walk: a target position gathers from source positions through taps.
 * Forward, the target is the output; in the gradient, it is the input. */
#ifndef LAB_F32_AXIS_H
#define LAB_F32_AXIS_H

#include <stdint.h>

typedef struct {
    int32_t targets, sources; /* positions */
    int32_t kernel, stride, pad, dilation;
} lab_f32_axis_t;

/* Tap first + j * step meets source position source + j * source_step, for j < count. */
typedef struct {
    int32_t first, step, count;
    int32_t source, source_step;
} lab_f32_taps_t;

static inline lab_f32_taps_t lab_f32_forward_taps(const lab_f32_axis_t *axis, int32_t target)
{
    const int32_t start = target * axis->stride - axis->pad;
    int32_t first = 0;
    int32_t end = axis->kernel;
    if (start < 0) {
        first = (-start + axis->dilation - 1) / axis->dilation;
    }
    if (start + (axis->kernel - 1) * axis->dilation >= axis->sources) {
        end = start < axis->sources ? (axis->sources - start + axis->dilation - 1) / axis->dilation : 0;
    }
    const lab_f32_taps_t taps = {
        .first = first,
        .step = 1,
        .count = end > first ? end - first : 0,
        .source = start + first * axis->dilation,
        .source_step = axis->dilation,
    };
    return taps;
}

/* Taps k with source * stride == target + pad - k * dilation. */
static inline lab_f32_taps_t lab_f32_gradient_taps(const lab_f32_axis_t *axis, int32_t target)
{
    lab_f32_taps_t taps = {.step = 1};
    if (axis->stride == 1 && axis->dilation == 1) {
        const int32_t reach = target + axis->pad;
        const int32_t end = reach + 1 < axis->kernel ? reach + 1 : axis->kernel;
        taps.first = reach < axis->sources ? 0 : reach - axis->sources + 1;
        taps.count = end > taps.first ? end - taps.first : 0;
        taps.source = reach - taps.first;
        taps.source_step = -1;
        return taps;
    }
    while (taps.step * axis->dilation % axis->stride != 0) {
        taps.step++;
    }
    taps.source_step = -(taps.step * axis->dilation / axis->stride);
    int32_t distance = target + axis->pad;
    while (taps.first < taps.step && distance % axis->stride != 0) {
        taps.first++;
        distance -= axis->dilation;
    }
    if (taps.first == taps.step) {
        return taps;
    }
    taps.source = distance / axis->stride;
    while (taps.source >= axis->sources) {
        taps.first += taps.step;
        taps.source += taps.source_step;
    }
    for (int32_t source = taps.source, tap = taps.first; source >= 0 && tap < axis->kernel; tap += taps.step) {
        taps.count++;
        source += taps.source_step;
    }
    return taps;
}

typedef struct {
    int32_t first, count;
} lab_f32_range_t;

/* Targets of a forward pass for which a tap meets a source. */
static inline lab_f32_range_t lab_f32_tap_range(const lab_f32_axis_t *axis, int32_t tap)
{
    const int32_t shift = axis->pad - tap * axis->dilation;
    const int32_t first = shift > 0 ? (shift + axis->stride - 1) / axis->stride : 0;
    int32_t end = axis->sources + shift > 0 ? (axis->sources + shift + axis->stride - 1) / axis->stride : 0;
    if (end > axis->targets) {
        end = axis->targets;
    }
    const lab_f32_range_t range = {first, end > first ? end - first : 0};
    return range;
}

#endif
