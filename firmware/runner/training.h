/* What training keeps from job to job: the model's variables and the state of its steps. */
#ifndef LAB_RUNNER_TRAINING_H
#define LAB_RUNNER_TRAINING_H

#include "lab_training.h"

#include <stdbool.h>

extern lab_training_state_t training_state;

/* Variables and state as compiled; does nothing where the model is not trained. Call once at boot. */
void training_init(void);

/* False after having sent an error that names the job: the model is not trained on the device. */
bool training_is_there(const char *job);

#endif
