#include "ns16550.h"

#include "board.h"
#include "port.h"

#define UART_REGISTER(number) (*(volatile uint8_t *)(uintptr_t)(BOARD_UART + BOARD_UART_STRIDE * (number)))
#define UART_DATA UART_REGISTER(0u)
#define UART_INTERRUPT_ENABLE UART_REGISTER(1u)
#define UART_FIFO_CONTROL UART_REGISTER(2u)
#define UART_LINE_STATUS UART_REGISTER(5u)

/* QEMU lets as many bytes in at once as the trigger level says; an interrupt at once wants the level of one byte. */
#define FIFO_LEVEL_14 0xC1u
#define FIFO_LEVEL_1 0x01u
#define INTERRUPT_RX 1u
#define STATUS_RX_READY (1u << 0)
#define STATUS_TX_EMPTY (1u << 5)

void ns16550_init(void)
{
    UART_FIFO_CONTROL = FIFO_LEVEL_14;
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && (UART_LINE_STATUS & STATUS_RX_READY))
        bytes[count++] = UART_DATA;
    return count;
}

void port_idle(void)
{
    /* The interrupt is of a level: a byte that has come already ends the sleep before it begins. */
    UART_FIFO_CONTROL = FIFO_LEVEL_1;
    UART_INTERRUPT_ENABLE = INTERRUPT_RX;
    board_wait();
    UART_INTERRUPT_ENABLE = 0;
    UART_FIFO_CONTROL = FIFO_LEVEL_14;
}

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (!(UART_LINE_STATUS & STATUS_TX_EMPTY))
            continue;
        UART_DATA = bytes[i];
    }
}
