/* Clock tree of STM32F405, F407 and F446: RM0090 and RM0390, chapters PWR, RCC and embedded flash. */
#include "stm32f4.h"

#include "board.h"
#include "cortex_m.h"

#define RCC_CR 0x40023800u
#define RCC_PLLCFGR 0x40023804u
#define RCC_CFGR 0x40023808u
#define RCC_AHB1ENR 0x40023830u
#define RCC_APB1ENR 0x40023840u
#define RCC_APB2ENR 0x40023844u

#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_HSEBYP (1u << 18)
#define CR_PLLON (1u << 24)
#define CR_PLLRDY (1u << 25)
#define PLLCFGR_SOURCE_HSE (1u << 22)
#define CFGR_APB1_QUARTER (5u << 10)
#define CFGR_APB2_HALF (4u << 13)
#define CFGR_SOURCE_PLL 2u
#define CFGR_SOURCE_MASK 3u
#define CFGR_STATUS_PLL (2u << 2)
#define CFGR_STATUS_MASK (3u << 2)
#define AHB1ENR_GPIO_A_TO_E 0x1Fu
#define APB1ENR_TIM2 (1u << 0)
#define APB1ENR_TIM5 (1u << 3)
#define APB1ENR_USART2 (1u << 17)
#define APB1ENR_PWR (1u << 28)
#define APB2ENR_USART1 (1u << 4)

#define PWR_CR 0x40007000u
#define PWR_CSR 0x40007004u
#define PWR_CR_ODEN (1u << 16)
#define PWR_CR_ODSWEN (1u << 17)
#define PWR_CSR_ODRDY (1u << 16)
#define PWR_CSR_ODSWRDY (1u << 17)

#define FLASH_ACR 0x40023C00u
#define ACR_LATENCY_MASK 0xFu
#define ACR_PREFETCH (1u << 8)
#define ACR_CODE_CACHE (1u << 9)
#define ACR_DATA_CACHE (1u << 10)

#define HSI_HZ 16000000u

/* P is 2, which its field calls 0. */
#define PLLCFGR_VALUE \
    (BOARD_PLL_M | BOARD_PLL_N << 6 | PLLCFGR_SOURCE_HSE | BOARD_PLL_Q << 24 | BOARD_PLL_R << 28)

static bool start_external_oscillator(void)
{
#ifdef BOARD_HSE_BYPASS
    REGISTER(RCC_CR) |= CR_HSEBYP;
#endif
    REGISTER(RCC_CR) |= CR_HSEON;
    return stm32_becomes(RCC_CR, CR_HSERDY, CR_HSERDY);
}

/* Over-drive, where the part has it, is entered while the PLL locks (RM0390, 5.1.4). */
static bool start_pll(void)
{
    REGISTER(RCC_PLLCFGR) = PLLCFGR_VALUE;
    REGISTER(RCC_CR) |= CR_PLLON;
#ifdef BOARD_OVERDRIVE
    REGISTER(PWR_CR) |= PWR_CR_ODEN;
    if (!stm32_becomes(PWR_CSR, PWR_CSR_ODRDY, PWR_CSR_ODRDY))
        return false;
    REGISTER(PWR_CR) |= PWR_CR_ODSWEN;
    if (!stm32_becomes(PWR_CSR, PWR_CSR_ODSWRDY, PWR_CSR_ODSWRDY))
        return false;
#endif
    return stm32_becomes(RCC_CR, CR_PLLRDY, CR_PLLRDY);
}

static bool slow_down_flash(void)
{
    REGISTER(FLASH_ACR) = ACR_PREFETCH | ACR_CODE_CACHE | ACR_DATA_CACHE | BOARD_FLASH_WAIT_STATES;
    return stm32_becomes(FLASH_ACR, ACR_LATENCY_MASK, BOARD_FLASH_WAIT_STATES);
}

static bool switch_to_pll(void)
{
    REGISTER(RCC_CFGR) = (REGISTER(RCC_CFGR) & ~CFGR_SOURCE_MASK) | CFGR_SOURCE_PLL;
    return stm32_becomes(RCC_CFGR, CFGR_STATUS_MASK, CFGR_STATUS_PLL);
}

void stm32_start_clock(void)
{
    REGISTER(RCC_APB1ENR) |= APB1ENR_PWR | APB1ENR_TIM2 | APB1ENR_TIM5 | APB1ENR_USART2;
    REGISTER(RCC_APB2ENR) |= APB2ENR_USART1;
    REGISTER(RCC_AHB1ENR) |= AHB1ENR_GPIO_A_TO_E;
    /* A register may be used two cycles after its clock was enabled; a read takes them (data sheet errata). */
    (void)REGISTER(RCC_AHB1ENR);
    REGISTER(PWR_CR) |= BOARD_VOLTAGE_SCALE << 14;
    /* At either clock, so that APB1 is a quarter of the core's and its timers half. */
    REGISTER(RCC_CFGR) = CFGR_APB1_QUARTER | CFGR_APB2_HALF;

    if (start_external_oscillator() && start_pll() && slow_down_flash() && switch_to_pll()) {
        stm32_core_hz = BOARD_CLOCK_HZ;
        return;
    }
    /* The core still runs from the internal oscillator. */
    REGISTER(RCC_CFGR) = CFGR_APB1_QUARTER | CFGR_APB2_HALF;
    REGISTER(RCC_CR) &= ~(CR_PLLON | CR_HSEON);
    stm32_core_hz = HSI_HZ;
}
