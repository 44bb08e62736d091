#include "lab_f32_running_norm.h"

#include <math.h>

void lab_f32_running_norm(const lab_f32_running_norm_t *layer, const float *input, const float *mean,
                          const float *variance, const float *scale, const float *shift, float *output)
{
    const int32_t channels = layer->channels, end = layer->positions * channels;
    for (int32_t c = 0; c < channels; c++) {
        const float middle = mean[c], offset = shift != 0 ? shift[c] : 0.0f;
        const float deviation = 1.0f / sqrtf(variance[c] + layer->epsilon);
        const float factor = scale != 0 ? deviation * scale[c] : deviation;
        for (int32_t i = c; i < end; i += channels)
            output[i] = (input[i] - middle) * factor + offset;
    }
}
