#include "sifive.h"

#include "board.h"
#include "clock.h"
#include "port.h"
#include "riscv.h"

#define UART_TX_DATA 0x00u
#define UART_RX_DATA 0x04u
#define UART_TX_CONTROL 0x08u
#define UART_RX_CONTROL 0x0Cu
#define UART_INTERRUPT_ENABLE 0x10u

#define TX_FULL (1u << 31)
#define RX_EMPTY (1u << 31)
#define ENABLE 1u
/* The receiver's watermark stays 0: the interrupt is pending as long as a byte waits. */
#define INTERRUPT_RX (1u << 1)

void sifive_init(void)
{
    REGISTER(BOARD_UART0 + UART_TX_CONTROL) = ENABLE;
    REGISTER(BOARD_UART0 + UART_RX_CONTROL) = ENABLE;
    REGISTER(BOARD_UART1 + UART_TX_CONTROL) = ENABLE;
    riscv_wake_by(BOARD_UART0_IRQ);
    clock_start();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity) {
        uint32_t data = REGISTER(BOARD_UART0 + UART_RX_DATA);
        if (data & RX_EMPTY)
            break;
        bytes[count++] = (uint8_t)data;
    }
    return count;
}

void port_idle(void)
{
    REGISTER(BOARD_UART0 + UART_INTERRUPT_ENABLE) = INTERRUPT_RX;
    riscv_wait();
    REGISTER(BOARD_UART0 + UART_INTERRUPT_ENABLE) = 0;
}

static void write_line(uint32_t uart, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (REGISTER(uart + UART_TX_DATA) & TX_FULL)
            continue;
        REGISTER(uart + UART_TX_DATA) = bytes[i];
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    write_line(BOARD_UART0, bytes, count);
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
    write_line(BOARD_UART1, bytes, count);
}

/* QEMU has no watchdog here, and nothing else that resets the machine: what start-up does has to do. */
void port_reset(void)
{
    riscv_restart();
}
