#include "lab_f32_cross_entropy.h"

#include <math.h>

void lab_f32_cross_entropy(const lab_f32_cross_entropy_t *layer, const float *logits, const int32_t *labels, float *loss)
{
    float total = 0.0f;
    int32_t counted = 0;
    for (int32_t row = 0; row < layer->rows; row++, logits += layer->classes) {
        const int32_t label = labels[row];
        if (label == layer->ignored)
            continue;
        if (label < 0 || label >= layer->classes) {
            total = NAN;
            continue;
        }
        float maximum = logits[0], sum = 0.0f;
        for (int32_t i = 1; i < layer->classes; i++)
            maximum = logits[i] > maximum ? logits[i] : maximum;
        for (int32_t i = 0; i < layer->classes; i++)
            sum += expf(logits[i] - maximum);
        total += logf(sum) - (logits[label] - maximum);
        counted++;
    }
    *loss = layer->mean ? total / (float)counted : total;
}
