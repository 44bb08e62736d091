/* System control and PL011 UARTs (Arm DDI 0183). */
#include "lm3s.h"

#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define RAW_INTERRUPT_STATUS 0x400FE050u
#define RUN_CLOCK 0x400FE060u
#define PLL_LOCKED (1u << 6)
/* 8 MHz crystal on the main oscillator, PLL of 200 MHz divided by 4. */
#define RUN_CLOCK_50_MHZ (3u << 23 | 1u << 22 | 0xEu << 6)

#define UART_DATA 0x00u
#define UART_FLAGS 0x18u
#define UART_LINE_CONTROL 0x2Cu
#define UART_CONTROL 0x30u
#define UART_INTERRUPT_MASK 0x38u

#define FLAG_RX_EMPTY (1u << 4)
#define FLAG_TX_FULL (1u << 5)
#define LINE_CONTROL_8_BITS_FIFO (3u << 5 | 1u << 4)
#define CONTROL_ENABLE_BOTH_WAYS (1u << 9 | 1u << 8 | 1u << 0)
#define INTERRUPT_RX (1u << 4)

void lm3s_init(void)
{
    REGISTER(RUN_CLOCK) = RUN_CLOCK_50_MHZ;
    while (!(REGISTER(RAW_INTERRUPT_STATUS) & PLL_LOCKED))
        continue;
    static const uint32_t uarts[] = {BOARD_UART0, BOARD_UART1};
    for (uint32_t i = 0; i < 2; i++) {
        REGISTER(uarts[i] + UART_LINE_CONTROL) = LINE_CONTROL_8_BITS_FIFO;
        REGISTER(uarts[i] + UART_CONTROL) = CONTROL_ENABLE_BOTH_WAYS;
    }
    clock_start();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && !(REGISTER(BOARD_UART0 + UART_FLAGS) & FLAG_RX_EMPTY))
        bytes[count++] = (uint8_t)REGISTER(BOARD_UART0 + UART_DATA);
    return count;
}

void port_idle(void)
{
    /* With interrupts masked a pending one still ends WFI, so nothing is lost between the check and the sleep. */
    __asm__ volatile("cpsid i" ::: "memory");
    REGISTER(BOARD_UART0 + UART_INTERRUPT_MASK) = INTERRUPT_RX;
    NVIC_ENABLE(BOARD_UART0_IRQ) = NVIC_BIT(BOARD_UART0_IRQ);
    if (REGISTER(BOARD_UART0 + UART_FLAGS) & FLAG_RX_EMPTY)
        __asm__ volatile("dsb\n wfi" ::: "memory");
    REGISTER(BOARD_UART0 + UART_INTERRUPT_MASK) = 0;
    NVIC_CLEAR_PENDING(BOARD_UART0_IRQ) = NVIC_BIT(BOARD_UART0_IRQ);
    __asm__ volatile("cpsie i" ::: "memory");
}

static void write_line(uint32_t uart, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (REGISTER(uart + UART_FLAGS) & FLAG_TX_FULL)
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
