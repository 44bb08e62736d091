#include "msf2.h"

#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "ns16550.h"
#include "port.h"

void msf2_init(void)
{
    ns16550_init();
    clock_start();
}

void board_wait(void)
{
    /* With interrupts masked a pending one still ends WFI. */
    __asm__ volatile("cpsid i" ::: "memory");
    NVIC_ENABLE(BOARD_UART_IRQ) = NVIC_BIT(BOARD_UART_IRQ);
    __asm__ volatile("dsb\n wfi" ::: "memory");
    NVIC_DISABLE(BOARD_UART_IRQ) = NVIC_BIT(BOARD_UART_IRQ);
    NVIC_CLEAR_PENDING(BOARD_UART_IRQ) = NVIC_BIT(BOARD_UART_IRQ);
    __asm__ volatile("cpsie i" ::: "memory");
}

/* The second UART is there only while QEMU has something to connect it to; else to touch it is a fault. */
void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}
