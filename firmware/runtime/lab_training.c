#include "lab_training.h"

#include <string.h>

void lab_training_reset(const lab_training_t *training)
{
    for (uint32_t i = 0; i < training->variable_count; i++) {
        const lab_variable_t *variable = &training->variables[i];
        if (variable->initial != 0)
            memcpy(variable->data, variable->initial, variable->bytes);
        else
            memset(variable->data, 0, variable->bytes);
    }
}
