/* Performance and accuracy: a line with the microseconds of the board's clock, which counts instructions on an emulator. */
#include "port.h"
#include "text.h"
#include "timestamp.h"

#include <stdint.h>

const char timestamp_mode[] = "performance";

void timestamp_init(void)
{
}

/* In two steps: a clock of 1 GHz times 1,000,000 would leave 64 bits after some hours. */
static uint64_t microseconds(uint64_t cycles)
{
    uint64_t hz = port_clock_hz();
    return cycles / hz * 1000000u + cycles % hz * 1000000u / hz;
}

void timestamp(void)
{
    uint64_t now = port_cycles();
    text_string("m-lap-us-");
    text_uint(microseconds(now));
    text_line();
}

void timestamp_work(bool running)
{
    (void)running;
}
