#include "lab_f32_batch_norm_input_gradient.h"

void lab_f32_batch_norm_input_gradient(const lab_f32_batch_norm_input_gradient_t *layer, const float *gradient,
                                       const float *deviation, const float *scale, float *output)
{
    const int32_t channels = layer->channels, end = layer->positions * channels;
    for (int32_t c = 0; c < channels; c++) {
        const float factor = scale != 0 ? deviation[c] * scale[c] : deviation[c];
        for (int32_t i = c; i < end; i += channels)
            output[i] = gradient[i] * factor;
    }
}
