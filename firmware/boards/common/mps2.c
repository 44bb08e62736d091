/* CMSDK UARTs (Arm DDI 0479). */
#include "mps2.h"

#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define UART_DATA 0x0u
#define UART_STATE 0x4u
#define UART_CTRL 0x8u
#define UART_INTSTATUS 0xCu
#define UART_BAUDDIV 0x10u

#define STATE_TX_FULL (1u << 0)
#define STATE_RX_FULL (1u << 1)
#define CTRL_TX_ENABLE (1u << 0)
#define CTRL_RX_ENABLE (1u << 1)
#define CTRL_RX_INTERRUPT (1u << 3)
#define INTERRUPT_RX (1u << 1)

const uint32_t mps2_baud_rates[MPS2_BAUD_RATES] = {115200, 230400, 460800, 921600};

void mps2_set_baud(uint32_t baud)
{
    /* The transmitter takes no byte before it is done with the one before; what it holds last QEMU sends at once. */
    while (REGISTER(BOARD_UART0 + UART_STATE) & STATE_TX_FULL)
        continue;
    REGISTER(BOARD_UART0 + UART_BAUDDIV) = (BOARD_CLOCK_HZ + baud / 2) / baud;
}

void mps2_init(void)
{
    mps2_set_baud(mps2_baud_rates[0]);
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE;
    /* QEMU asks its line for input after a read, not when the receiver is enabled: else the first byte may wait. */
    (void)REGISTER(BOARD_UART0 + UART_DATA);
    REGISTER(BOARD_UART1 + UART_BAUDDIV) = 16;
    REGISTER(BOARD_UART1 + UART_CTRL) = CTRL_TX_ENABLE;
    clock_start();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && (REGISTER(BOARD_UART0 + UART_STATE) & STATE_RX_FULL))
        bytes[count++] = (uint8_t)REGISTER(BOARD_UART0 + UART_DATA);
    return count;
}

void port_idle(void)
{
    /* With interrupts masked a pending one still ends WFI, so nothing is lost between the check and the sleep. The
     * UART raises its interrupt only for a byte that arrives while it is enabled: look once after enabling. */
    __asm__ volatile("cpsid i" ::: "memory");
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE | CTRL_RX_INTERRUPT;
    NVIC_ENABLE(BOARD_UART0_RX_IRQ) = NVIC_BIT(BOARD_UART0_RX_IRQ);
    if (!(REGISTER(BOARD_UART0 + UART_STATE) & STATE_RX_FULL))
        __asm__ volatile("dsb\n wfi" ::: "memory");
    REGISTER(BOARD_UART0 + UART_CTRL) = CTRL_TX_ENABLE | CTRL_RX_ENABLE;
    REGISTER(BOARD_UART0 + UART_INTSTATUS) = INTERRUPT_RX;
    NVIC_CLEAR_PENDING(BOARD_UART0_RX_IRQ) = NVIC_BIT(BOARD_UART0_RX_IRQ);
    __asm__ volatile("cpsie i" ::: "memory");
}

static void write_line(uint32_t uart, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (REGISTER(uart + UART_STATE) & STATE_TX_FULL)
            continue;
        REGISTER(uart + UART_DATA) = bytes[i];
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
