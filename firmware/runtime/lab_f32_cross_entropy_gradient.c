#include "lab_f32_cross_entropy_gradient.h"

#include <math.h>

static int counts(const lab_f32_cross_entropy_gradient_t *layer, int32_t label)
{
    return label != layer->ignored && label >= 0 && label < layer->classes;
}

void lab_f32_cross_entropy_gradient(const lab_f32_cross_entropy_gradient_t *layer, const float *logits,
                                    const int32_t *labels, float *output)
{
    const int32_t classes = layer->classes;
    int32_t counted = 0;
    for (int32_t row = 0; row < layer->rows; row++)
        counted += counts(layer, labels[row]);
    const float scale = layer->mean ? layer->scale / (float)counted : layer->scale;
    for (int32_t row = 0; row < layer->rows; row++, logits += classes, output += classes) {
        if (!counts(layer, labels[row])) {
            for (int32_t i = 0; i < classes; i++)
                output[i] = 0.0f;
            continue;
        }
        float maximum = logits[0], sum = 0.0f;
        for (int32_t i = 1; i < classes; i++)
            maximum = logits[i] > maximum ? logits[i] : maximum;
        for (int32_t i = 0; i < classes; i++) {
            output[i] = expf(logits[i] - maximum);
            sum += output[i];
        }
        for (int32_t i = 0; i < classes; i++)
            output[i] = scale * (output[i] / sum - (i == labels[row] ? 1.0f : 0.0f));
    }
}
