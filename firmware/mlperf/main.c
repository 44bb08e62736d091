#include "dut.h"
#include "port.h"

/* Polling is fastest while a command arrives; after this many empty polls the line counts as idle. */
#define EMPTY_POLLS_BEFORE_IDLE 20000u

void lab_main(void)
{
    uint8_t bytes[64];
    uint32_t empty_polls = 0;
    dut_init();
    for (;;) {
        size_t count = port_read(bytes, sizeof bytes);
        for (size_t i = 0; i < count; i++)
            dut_receive(bytes[i]);
        empty_polls = count > 0 ? 0 : empty_polls + 1;
        if (empty_polls == EMPTY_POLLS_BEFORE_IDLE) {
            port_idle();
            empty_polls = 0;
        }
    }
}
