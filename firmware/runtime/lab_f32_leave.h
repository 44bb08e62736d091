/* The answer of an exit, fp32: `answer` [size] becomes the network's output. Its last element is the margin by which it
 * is sure enough: true where that is 0 or more, and the rest of the network need not be computed. A margin that is no
 * number leaves nothing. No scratch. */
#ifndef LAB_F32_LEAVE_H
#define LAB_F32_LEAVE_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    int32_t size; /* at least 1 */
} lab_f32_leave_t;

bool lab_f32_leave(const lab_f32_leave_t *layer, const float *answer, float *output);

/* The same behind another exit, whose answer `earlier` lies in `output` and is written over. */
bool lab_f32_leave_later(const lab_f32_leave_t *layer, const float *answer, const float *earlier, float *output);

#endif
