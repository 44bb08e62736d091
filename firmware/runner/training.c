#include "training.h"

#include "lab_model.h"
#include "session.h"

#include <stddef.h>

lab_training_state_t training_state;

void training_init(void)
{
    training_state = (lab_training_state_t){.random = 1};
    if (lab_model.training != NULL)
        lab_training_reset(lab_model.training);
}

bool training_is_there(const char *job)
{
    if (lab_model.training != NULL)
        return true;
    session_error("unknown", job, "the model in this image was compiled without training");
    return false;
}
