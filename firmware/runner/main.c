#include "port.h"
#include "region.h"
#include "session.h"
#include "training.h"

/* Polling is fastest while a frame arrives; after this many empty polls the line counts as idle. */
#define EMPTY_POLLS_BEFORE_IDLE 20000u

void lab_main(void)
{
    uint8_t bytes[64];
    uint32_t empty_polls = 0;
    region_init();
    training_init();
    session_init();
    for (;;) {
        size_t count = port_read(bytes, sizeof bytes);
        for (size_t i = 0; i < count; i++)
            session_receive(bytes[i]);
        empty_polls = count > 0 ? 0 : empty_polls + 1;
        if (empty_polls == EMPTY_POLLS_BEFORE_IDLE) {
            port_idle();
            empty_polls = 0;
        }
    }
}
