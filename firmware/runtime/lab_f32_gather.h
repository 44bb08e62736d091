/* What a convolution's forward pass and its input gradient share: every pixel of the target is a sum over taps and the
 * source's channels. Pixels that use the same taps are taken four at a time, wherever they lie. */
#ifndef LAB_F32_GATHER_H
#define LAB_F32_GATHER_H

#include "lab_f32_axis.h"
#include "lab_f32_sink.h"

typedef struct {
    lab_f32_axis_t y, x;
    int32_t forward;                         /* 1: forward_taps, 0: gradient_taps */
    int32_t source_channels, target_channels; /* between pixels */
    int32_t depth, columns;                  /* source channels summed over, target channels computed */
    int32_t weight_depth, weight_column;     /* strides of the weights; one of the two is 1 */
    int32_t weight_y, weight_x;              /* between taps */
} lab_f32_gather_t;

void lab_f32_gather(const lab_f32_gather_t *gather, const float *source, const float *weights,
                    const lab_f32_store_t *store);

#endif
