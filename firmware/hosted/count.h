/* The instructions of a thread, counted by the kernel (perf_event_open(2)): exact in an emulator that counts. */
#ifndef LAB_HOSTED_COUNT_H
#define LAB_HOSTED_COUNT_H

#include <stdbool.h>
#include <stdint.h>

/* False where the kernel or the processor does not count; errno says why. */
bool count_open(void);
void count_close(void);

/* Instructions of this thread so far, those of the kernel not among them. */
uint64_t count_now(void);

#endif
