/* How the host learns when a window begins and ends. One of timestamp_performance.c and timestamp_energy.c is linked. */
#ifndef LAB_MLPERF_TIMESTAMP_H
#define LAB_MLPERF_TIMESTAMP_H

#include <stdbool.h>

/* The mode as the start-up line names it. */
extern const char timestamp_mode[];

/* Before the first timestamp. */
void timestamp_init(void);

void timestamp(void);

/* The inferences of a window begin or are over; for the meter of an emulated board. */
void timestamp_work(bool running);

#endif
