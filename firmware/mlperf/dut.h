/* The device side of the MLPerf Tiny serial protocol (docs/mlperf.md). */
#ifndef LAB_MLPERF_DUT_H
#define LAB_MLPERF_DUT_H

#include <stdint.h>

/* Resets everything and says the start-up lines. */
void dut_init(void);

/* Takes one received byte; carries a whole command out when the byte ends it. */
void dut_receive(uint8_t byte);

#endif
