#include "riscv_virt.h"

#include "board.h"
#include "clock.h"
#include "ns16550.h"
#include "port.h"
#include "riscv.h"

#define TEST_RESET 0x7777u

void riscv_virt_init(void)
{
    ns16550_init();
    riscv_wake_by(BOARD_UART_IRQ);
    clock_start();
}

void board_wait(void)
{
    riscv_wait();
}

/* The machine has no second line. */
void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}

void port_reset(void)
{
    REGISTER(BOARD_TEST_DEVICE) = TEST_RESET;
    for (;;)
        continue;
}
