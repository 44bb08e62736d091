#include "lab_f32_max_pool2d.h"

#include "lab_f32_max_scan.h"

void lab_f32_max_pool2d(const lab_f32_max_pool2d_t *layer, const float *input, float *output)
{
    const int32_t size = layer->input_height * layer->input_width * layer->channels;
    for (int32_t b = 0; b < layer->batch; b++, input += size) {
        for (int32_t y = 0; y < layer->output_height; y++) {
            for (int32_t x = 0; x < layer->output_width; x++) {
                for (int32_t c = 0; c < layer->channels; c++)
                    (void)lab_max_scan(layer, input, y, x, c, output++);
            }
        }
    }
}
