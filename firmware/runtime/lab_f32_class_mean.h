/* Running means of features by class, fp32. features [rows][depth], labels [rows] below `classes`; for each row
 * means[label] += g * (features[row] - means[label]), means [classes][depth]. Where samples come in rounds of `round`, one
 * of each class, g is 1 / n in round n of the first `rounds`, which gives the mean of all; it is `gain` afterwards. A
 * label out of range is left out. No scratch. */
#ifndef LAB_F32_CLASS_MEAN_H
#define LAB_F32_CLASS_MEAN_H

#include "lab_training.h"

typedef struct {
    int32_t rows, classes, depth, round, rounds; /* round is at least 1 */
    float gain;
} lab_f32_class_mean_t;

void lab_f32_class_mean(const lab_f32_class_mean_t *layer, float *means, const float *features, const int32_t *labels,
                        const lab_training_state_t *state);

#endif
