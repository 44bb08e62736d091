/* Clock tree, caches and memory protection of STM32H743: RM0433, chapters PWR, RCC and embedded flash; Arm DDI 0489. */
#include "stm32h7.h"

#include "board.h"
#include "cortex_m.h"

#define RCC_CR 0x58024400u
#define RCC_CFGR 0x58024410u
#define RCC_D1CFGR 0x58024418u
#define RCC_D2CFGR 0x5802441Cu
#define RCC_D3CFGR 0x58024420u
#define RCC_PLLCKSELR 0x58024428u
#define RCC_PLLCFGR 0x5802442Cu
#define RCC_PLL1DIVR 0x58024430u
#define RCC_AHB4ENR 0x580244E0u
#define RCC_APB1LENR 0x580244E8u

#define CR_HSEON (1u << 16)
#define CR_HSERDY (1u << 17)
#define CR_HSEBYP (1u << 18)
#define CR_PLL1ON (1u << 24)
#define CR_PLL1RDY (1u << 25)
#define CFGR_SOURCE_MASK 7u
#define CFGR_SOURCE_PLL1 3u
#define CFGR_STATUS_MASK (7u << 3)
#define CFGR_STATUS_PLL1 (3u << 3)
#define D1CFGR_AHB_HALF 8u
#define D1CFGR_APB3_HALF (4u << 4)
#define D2CFGR_APB1_HALF (4u << 4)
#define D2CFGR_APB2_HALF (4u << 8)
#define D3CFGR_APB4_HALF (4u << 4)
#define PLLCKSELR_HSE 2u
#define PLLCFGR_PLL1_INPUT_8_TO_16_MHZ (3u << 2) /* with the wide VCO, 192 to 836 MHz */
#define PLLCFGR_PLL1_P_ENABLE (1u << 16)
#define PLL1DIVR_Q_AND_R_HALF (1u << 16 | 1u << 24) /* as after a reset; nothing uses them */
#define AHB4ENR_GPIO_A_TO_E 0x1Fu
#define APB1LENR_TIM5 (1u << 3)
#define APB1LENR_USART3 (1u << 18)

#define PWR_CSR1 0x58024804u
#define PWR_CR3 0x5802480Cu
#define PWR_D3CR 0x58024818u
#define CSR1_ACTVOSRDY (1u << 13)
#define CR3_SUPPLY_MASK 7u
#define CR3_LDO (1u << 1)
#define D3CR_VOSRDY (1u << 13)
#define D3CR_SCALE_MASK (3u << 14)
#define D3CR_SCALE_1 (3u << 14)

#define FLASH_ACR 0x52002000u
#define ACR_MASK 0x3Fu
#define ACR_VALUE (BOARD_FLASH_WAIT_STATES | BOARD_FLASH_PROGRAMMING_DELAY << 4)

#define CCR 0xE000ED14u
#define CCSIDR 0xE000ED80u
#define CSSELR 0xE000ED84u
#define ICIALLU 0xE000EF50u
#define DCISW 0xE000EF60u
#define CCR_DATA_CACHE (1u << 16)
#define CCR_INSTRUCTION_CACHE (1u << 17)

#define MPU_CTRL 0xE000ED94u
#define MPU_RNR 0xE000ED98u
#define MPU_RBAR 0xE000ED9Cu
#define MPU_RASR 0xE000EDA0u
#define MPU_CTRL_ENABLE_OVER_DEFAULT_MAP 5u
/* All 4 GB in eighths; 0x60000000 to 0xDFFFFFFF have no access, the other eighths are left to the default map. */
#define MPU_RASR_EXTERNAL_NO_ACCESS (1u << 28 | 0x87u << 8 | 31u << 1 | 1u)

#define DBGMCU_IDCODE 0x5C001000u
#define FIRST_REVISION_V 0x20000000u
#define AXI_TARG7_FN_MOD 0x51008108u
#define AXI_READ_ISSUE_ONE 1u

#define HSI_HZ 64000000u

/* ES0392: in revision Y the AXI SRAM may give wrong data to two reads under way at once. */
static void serialize_reads_of_revision_y(void)
{
    if (REGISTER(DBGMCU_IDCODE) < FIRST_REVISION_V)
        REGISTER(AXI_TARG7_FN_MOD) = AXI_READ_ISSUE_ONE;
}

/* No memory is attached where the default map has external memory, but the core may read ahead there, and the bus
 * would wait for ever. */
static void forbid_external_memory(void)
{
    REGISTER(MPU_RNR) = 0;
    REGISTER(MPU_RBAR) = 0;
    REGISTER(MPU_RASR) = MPU_RASR_EXTERNAL_NO_ACCESS;
    REGISTER(MPU_CTRL) = MPU_CTRL_ENABLE_OVER_DEFAULT_MAP;
    __asm__ volatile("dsb\n isb" ::: "memory");
}

static void enable_caches(void)
{
    __asm__ volatile("dsb\n isb" ::: "memory");
    REGISTER(ICIALLU) = 0;
    __asm__ volatile("dsb\n isb" ::: "memory");
    REGISTER(CCR) |= CCR_INSTRUCTION_CACHE;
    __asm__ volatile("dsb\n isb" ::: "memory");
    if (REGISTER(CCR) & CCR_DATA_CACHE)
        return; /* invalidating it now would lose what it holds */
    REGISTER(CSSELR) = 0;
    __asm__ volatile("dsb" ::: "memory");
    uint32_t last_set = REGISTER(CCSIDR) >> 13 & 0x7FFFu;
    uint32_t last_way = REGISTER(CCSIDR) >> 3 & 0x3FFu;
    /* Lines of 32 bytes, four ways (Arm DDI 0489, 4.3). */
    for (uint32_t set = 0; set <= last_set; set++)
        for (uint32_t way = 0; way <= last_way; way++)
            REGISTER(DCISW) = way << 30 | set << 5;
    __asm__ volatile("dsb" ::: "memory");
    REGISTER(CCR) |= CCR_DATA_CACHE;
    __asm__ volatile("dsb\n isb" ::: "memory");
}

static bool raise_voltage(void)
{
    REGISTER(PWR_CR3) = (REGISTER(PWR_CR3) & ~CR3_SUPPLY_MASK) | CR3_LDO;
    if (!stm32_becomes(PWR_CSR1, CSR1_ACTVOSRDY, CSR1_ACTVOSRDY))
        return false;
    REGISTER(PWR_D3CR) = (REGISTER(PWR_D3CR) & ~D3CR_SCALE_MASK) | D3CR_SCALE_1;
    return stm32_becomes(PWR_D3CR, D3CR_VOSRDY, D3CR_VOSRDY);
}

static bool start_external_oscillator(void)
{
    REGISTER(RCC_CR) |= CR_HSEBYP;
    REGISTER(RCC_CR) |= CR_HSEON;
    return stm32_becomes(RCC_CR, CR_HSERDY, CR_HSERDY);
}

static bool start_pll(void)
{
    REGISTER(RCC_PLLCKSELR) = PLLCKSELR_HSE | BOARD_PLL_M << 4;
    REGISTER(RCC_PLLCFGR) = PLLCFGR_PLL1_INPUT_8_TO_16_MHZ | PLLCFGR_PLL1_P_ENABLE;
    REGISTER(RCC_PLL1DIVR) = (BOARD_PLL_N - 1u) | (BOARD_PLL_P - 1u) << 9 | PLL1DIVR_Q_AND_R_HALF;
    REGISTER(RCC_CR) |= CR_PLL1ON;
    return stm32_becomes(RCC_CR, CR_PLL1RDY, CR_PLL1RDY);
}

static bool slow_down_flash(void)
{
    REGISTER(FLASH_ACR) = ACR_VALUE;
    return stm32_becomes(FLASH_ACR, ACR_MASK, ACR_VALUE);
}

static bool switch_to_pll(void)
{
    REGISTER(RCC_CFGR) = (REGISTER(RCC_CFGR) & ~CFGR_SOURCE_MASK) | CFGR_SOURCE_PLL1;
    return stm32_becomes(RCC_CFGR, CFGR_STATUS_MASK, CFGR_STATUS_PLL1);
}

void stm32_start_clock(void)
{
    serialize_reads_of_revision_y();
    forbid_external_memory();
    enable_caches();
    REGISTER(RCC_AHB4ENR) |= AHB4ENR_GPIO_A_TO_E;
    REGISTER(RCC_APB1LENR) |= APB1LENR_TIM5 | APB1LENR_USART3;
    /* A register may be used two cycles after its clock was enabled; a read takes them (data sheet errata). */
    (void)REGISTER(RCC_APB1LENR);
    /* At either clock, so that APB1 is a quarter of the core's and its timers half. */
    REGISTER(RCC_D1CFGR) = D1CFGR_AHB_HALF | D1CFGR_APB3_HALF;
    REGISTER(RCC_D2CFGR) = D2CFGR_APB1_HALF | D2CFGR_APB2_HALF;
    REGISTER(RCC_D3CFGR) = D3CFGR_APB4_HALF;

    if (raise_voltage() && start_external_oscillator() && start_pll() && slow_down_flash() && switch_to_pll()) {
        stm32_core_hz = BOARD_CLOCK_HZ;
        return;
    }
    /* The core still runs from the internal oscillator, and the flash at the wait states it had after the reset or more
     * than it needs. */
    REGISTER(RCC_CFGR) &= ~CFGR_SOURCE_MASK;
    REGISTER(RCC_CR) &= ~(CR_PLL1ON | CR_HSEON);
    stm32_core_hz = HSI_HZ;
}
