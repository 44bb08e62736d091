#include "nrf5.h"

#include "board.h"
#include "clock.h"
#include "cortex_m.h"
#include "port.h"

/* nRF51 reference manual 3.0 chapter 29, nRF52840 product specification 1.7 chapter 6.33 (the same registers). */
#define UART_STARTRX (BOARD_UART + 0x000u)
#define UART_STARTTX (BOARD_UART + 0x008u)
#define UART_RXDRDY (BOARD_UART + 0x108u)
#define UART_TXDRDY (BOARD_UART + 0x11Cu)
#define UART_INTENSET (BOARD_UART + 0x304u)
#define UART_INTENCLR (BOARD_UART + 0x308u)
#define UART_ENABLE (BOARD_UART + 0x500u)
#define UART_PSELTXD (BOARD_UART + 0x50Cu)
#define UART_PSELRXD (BOARD_UART + 0x514u)
#define UART_RXD (BOARD_UART + 0x518u)
#define UART_TXD (BOARD_UART + 0x51Cu)
#define UART_BAUDRATE (BOARD_UART + 0x524u)

#define UART_ENABLED 4u
#define INTERRUPT_RXDRDY (1u << 2)

#define PIN_OUTPUT 3u /* output, input buffer off */
#define PIN_INPUT_PULLED_UP 0xCu

/* Rates that come out within 1 %: 115942, 231884 and 1000000 bits per second. */
const uint32_t nrf5_baud_rates[NRF5_BAUD_RATES] = {115200, 230400, 1000000};
static const uint32_t baud_rate_words[NRF5_BAUD_RATES] = {0x01D7E000, 0x03AFB000, 0x10000000};

/* The receiver's own buffer has six bytes, 60 µs at 1 Mbaud: the interrupt empties it into this ring. */
static volatile uint8_t ring[BOARD_UART_RING_BYTES];
static volatile uint32_t ring_written;
static volatile uint32_t ring_read;

void nrf5_set_baud(uint32_t baud)
{
    for (uint32_t i = 0; i < NRF5_BAUD_RATES; i++)
        if (nrf5_baud_rates[i] == baud)
            REGISTER(UART_BAUDRATE) = baud_rate_words[i];
}

void nrf5_init(void)
{
    /* The line idles high, also before the UART drives it. */
    REGISTER(BOARD_GPIO + NRF5_GPIO_OUTSET) = 1u << BOARD_UART_TX_PIN;
    REGISTER(BOARD_GPIO + NRF5_GPIO_PIN_CNF(BOARD_UART_TX_PIN)) = PIN_OUTPUT;
    REGISTER(BOARD_GPIO + NRF5_GPIO_PIN_CNF(BOARD_UART_RX_PIN)) = PIN_INPUT_PULLED_UP;
    /* Pins may change only while the UART is off. */
    REGISTER(UART_PSELTXD) = BOARD_UART_TX_PIN;
    REGISTER(UART_PSELRXD) = BOARD_UART_RX_PIN;
    nrf5_set_baud(nrf5_baud_rates[0]);
    REGISTER(UART_ENABLE) = UART_ENABLED;
    REGISTER(UART_STARTTX) = NRF5_TRIGGER;
    REGISTER(UART_STARTRX) = NRF5_TRIGGER;
    REGISTER(UART_INTENSET) = INTERRUPT_RXDRDY;
    NVIC_ENABLE(BOARD_UART_IRQ) = NVIC_BIT(BOARD_UART_IRQ);
}

/* With the interrupt masked, or in it. A ring that is full stops the interrupt; port_read() starts it again. */
static void receive(void)
{
    while (REGISTER(UART_RXDRDY)) {
        if (ring_written - ring_read == BOARD_UART_RING_BYTES) {
            REGISTER(UART_INTENCLR) = INTERRUPT_RXDRDY;
            return;
        }
        /* Cleared first: the read may bring the next byte forward, with an event of its own. */
        REGISTER(UART_RXDRDY) = 0;
        ring[ring_written++ % BOARD_UART_RING_BYTES] = (uint8_t)REGISTER(UART_RXD);
    }
}

void board_interrupt(void)
{
    receive();
}

size_t port_read(uint8_t *bytes, size_t capacity)
{
    size_t count = 0;
    while (count < capacity && ring_read != ring_written)
        bytes[count++] = ring[ring_read++ % BOARD_UART_RING_BYTES];
    if (count > 0)
        REGISTER(UART_INTENSET) = INTERRUPT_RXDRDY;
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

void port_write(const uint8_t *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        REGISTER(UART_TXDRDY) = 0;
        REGISTER(UART_TXD) = bytes[i];
        while (!REGISTER(UART_TXDRDY))
            continue;
    }
}

void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}
