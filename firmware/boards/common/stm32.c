/* Pins, UART and coarse timer of STM32 parts: GPIO, USART and TIM5 of RM0390, RM0090 and RM0433. */
#include "stm32.h"

#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

#define GPIO_MODER 0x00u
#define GPIO_OSPEEDR 0x08u
#define GPIO_PUPDR 0x0Cu
#define GPIO_AFR(number) (0x20u + 4u * ((number) / 8u))

#define MODE_OUTPUT 1u
#define MODE_ALTERNATE 2u
#define SPEED_HIGH 2u
#define PULL_UP 1u

#define CONTROL1_RECEIVE (1u << 2)
#define CONTROL1_TRANSMIT (1u << 3)
#define CONTROL1_RECEIVE_INTERRUPT (1u << 5)
#define STATUS_OVERRUN (1u << 3)
#define STATUS_RECEIVED (1u << 5)
#define STATUS_SENT (1u << 6)
#define STATUS_WRITABLE (1u << 7)
/* With 16 samples per bit. */
#define LEAST_BAUD_DIVISOR 16u

#define TIMER_CR1 0x00u
#define TIMER_EGR 0x14u
#define TIMER_CNT 0x24u
#define TIMER_PSC 0x28u
#define TIMER_ARR 0x2Cu
#define TIMER_ENABLE 1u
#define TIMER_UPDATE 1u

#define VTOR 0xE000ED08u

/* Turns of six cycles or more, that is 9 ms or more at 64 MHz: a crystal takes 2 ms, a PLL 0.2 ms. */
#define PATIENCE 100000u

/* One credit (docs/wire.md) lets one frame of 1034 bytes be under way; the rest is for one that is repeated. */
#define RING_BYTES 2048u

uint32_t stm32_core_hz;

uint32_t stm32_baud_rates[STM32_BAUD_RATES] = {115200, 230400, 460800, 921600};

static volatile uint8_t ring[RING_BYTES];
static volatile uint32_t ring_written;
static volatile uint32_t ring_read;

/* ---- what start-up needs ---- */

bool stm32_becomes(uint32_t address, uint32_t mask, uint32_t value)
{
    for (uint32_t i = 0; i < PATIENCE; i++)
        if ((REGISTER(address) & mask) == value)
            return true;
    return false;
}

static void set_field(uint32_t address, uint32_t shift, uint32_t bits, uint32_t value)
{
    uint32_t mask = ((1u << bits) - 1u) << shift;
    REGISTER(address) = (REGISTER(address) & ~mask) | value << shift;
}

static void connect_uart(uint32_t pin)
{
    uint32_t number = STM32_PIN_NUMBER(pin);
    /* A line that nobody drives idles high. */
    set_field(STM32_GPIO(pin) + GPIO_PUPDR, 2u * number, 2, PULL_UP);
    set_field(STM32_GPIO(pin) + GPIO_AFR(number), 4u * (number % 8u), 4, BOARD_UART_FUNCTION);
    set_field(STM32_GPIO(pin) + GPIO_MODER, 2u * number, 2, MODE_ALTERNATE);
}

static uint32_t divisor_of(uint32_t clock_divider, uint32_t baud)
{
    return (stm32_core_hz / clock_divider + baud / 2u) / baud;
}

/* What this clock does not give within 1 % is not offered: the first rate stands in its place. All at full clock. */
static void leave_out_rates(uint32_t clock_divider)
{
    uint32_t hz = stm32_core_hz / clock_divider;
    for (uint32_t i = 1; i < STM32_BAUD_RATES; i++) {
        uint32_t divisor = divisor_of(clock_divider, stm32_baud_rates[i]);
        uint32_t given = divisor * stm32_baud_rates[i];
        uint32_t off = given > hz ? given - hz : hz - given;
        if (divisor < LEAST_BAUD_DIVISOR || off > hz / 100u)
            stm32_baud_rates[i] = stm32_baud_rates[0];
    }
}

static void start_uart(uint32_t usart, uint32_t clock_divider, uint32_t control)
{
    REGISTER(usart + STM32_USART_BRR) = divisor_of(clock_divider, stm32_baud_rates[0]);
    REGISTER(usart + STM32_USART_CR1) = STM32_USART_ENABLE | control;
}

/* Both marker pins, low. */
static void start_marker(void)
{
#ifdef BOARD_MARKER
    uint32_t port = STM32_GPIO(BOARD_MARKER);
    REGISTER(port + STM32_GPIO_BSRR) = PORT_MARKER_WORD(0u);
    set_field(port + GPIO_OSPEEDR, 2u * LAB_MARKER_SHIFT, 4, SPEED_HIGH << 2 | SPEED_HIGH);
    set_field(port + GPIO_MODER, 2u * LAB_MARKER_SHIFT, 4, MODE_OUTPUT << 2 | MODE_OUTPUT);
#endif
}

static void start_coarse_timer(void)
{
    REGISTER(STM32_TIM5 + TIMER_PSC) = (1u << STM32_TIM5_PRESCALER_BITS) - 1u;
    REGISTER(STM32_TIM5 + TIMER_ARR) = UINT32_MAX;
    REGISTER(STM32_TIM5 + TIMER_EGR) = TIMER_UPDATE;
    REGISTER(STM32_TIM5 + TIMER_CR1) = TIMER_ENABLE;
}

void stm32_start_lines(void)
{
    /* Also right where something else than the boot pins started this image. */
    REGISTER(VTOR) = BOARD_VECTORS;
    start_marker();
    leave_out_rates(BOARD_UART_CLOCK_DIVIDER);
    connect_uart(BOARD_UART_TX);
    connect_uart(BOARD_UART_RX);
    start_uart(BOARD_UART, BOARD_UART_CLOCK_DIVIDER,
               CONTROL1_RECEIVE | CONTROL1_TRANSMIT | CONTROL1_RECEIVE_INTERRUPT);
    NVIC_ENABLE(BOARD_UART_IRQ) = NVIC_BIT(BOARD_UART_IRQ);
#ifdef BOARD_MARKER_UART
    start_uart(BOARD_MARKER_UART, BOARD_MARKER_UART_CLOCK_DIVIDER, CONTROL1_TRANSMIT);
#endif
    start_coarse_timer();
    clock_start();
}

/* ---- the line ---- */

/* The UART holds one byte: at 115200 baud this has 87 µs to fetch it. What the ring has no room for breaks its frame's
 * checksum, and the host repeats the frame. */
void board_interrupt(void)
{
    uint32_t status = REGISTER(BOARD_UART + STM32_USART_STATUS);
    if (status & (STATUS_RECEIVED | STATUS_OVERRUN)) {
        uint8_t byte = (uint8_t)REGISTER(BOARD_UART + STM32_USART_READ);
#ifdef STM32_USART_CLEAR
        REGISTER(BOARD_UART + STM32_USART_CLEAR) = STATUS_OVERRUN;
#endif
        if ((status & STATUS_RECEIVED) && ring_written - ring_read < RING_BYTES) {
            ring[ring_written % RING_BYTES] = byte;
            ring_written++;
        }
    }
}

void stm32_set_baud(uint32_t baud)
{
    uint32_t control = REGISTER(BOARD_UART + STM32_USART_CR1);
    (void)stm32_becomes(BOARD_UART + STM32_USART_STATUS, STATUS_SENT, STATUS_SENT);
    REGISTER(BOARD_UART + STM32_USART_CR1) = control & ~STM32_USART_ENABLE;
    REGISTER(BOARD_UART + STM32_USART_BRR) = divisor_of(BOARD_UART_CLOCK_DIVIDER, baud);
    REGISTER(BOARD_UART + STM32_USART_CR1) = control;
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    uint32_t next = ring_read;
    uint32_t end = ring_written;
    while (count < capacity && next != end)
        bytes[count++] = ring[next++ % RING_BYTES];
    ring_read = next;
    return count;
}

void port_idle(void)
{
    /* With interrupts masked a pending one still ends WFI, so nothing is lost between the check and the sleep. */
    __asm__ volatile("cpsid i" ::: "memory");
    if (ring_read == ring_written) {
        __asm__ volatile("dsb\n wfi" ::: "memory");
        clock_slept();
    }
    __asm__ volatile("cpsie i" ::: "memory");
}

static void write_line(uint32_t usart, const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        while (!(REGISTER(usart + STM32_USART_STATUS) & STATUS_WRITABLE))
            continue;
        REGISTER(usart + STM32_USART_WRITE) = bytes[i];
    }
}

void port_write(const uint8_t *bytes, size_t count)
{
    write_line(BOARD_UART, bytes, count);
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
#ifdef BOARD_MARKER_UART
    write_line(BOARD_MARKER_UART, bytes, count);
#else
    (void)bytes;
    (void)count;
#endif
}
