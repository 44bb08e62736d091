/* The runner as a Linux process: standard input and output are the line, a reset executes the program anew. */
#define _GNU_SOURCE
#include "hosted.h"

#include "memory.h"
#include "port.h"
#include "session.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

uint32_t lab_stack[(HOSTED_GUARD_BYTES + HOSTED_STACK_BYTES) / sizeof(uint32_t)]
    __attribute__((aligned(HOSTED_GUARD_BYTES)));
uint8_t hosted_blob_store[HOSTED_BLOB_BYTES] __attribute__((aligned(16)));
volatile uint32_t hosted_marker;

static uint8_t signal_stack[64 * 1024];

/* ---- line ---- */

size_t port_read(uint8_t *bytes, size_t capacity)
{
    ssize_t count = read(STDIN_FILENO, bytes, capacity);
    if (count <= 0)
        _exit(EXIT_SUCCESS);
    return (size_t)count;
}

/* port_read() blocks, so the runner never idles. */
void port_idle(void)
{
}

void port_write(const uint8_t *bytes, size_t count)
{
    while (count > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, count);
        if (written <= 0)
            _exit(EXIT_FAILURE);
        bytes += written;
        count -= (size_t)written;
    }
}

/* A process has no marker line; its regions are aligned by host time. */
void port_write_marker(const uint8_t *bytes, size_t count)
{
    (void)bytes;
    (void)count;
}

/* ---- clock ---- */

uint64_t port_cycles(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

bool port_doze(uint64_t cycles)
{
    const struct timespec length = {(time_t)(cycles / 1000000000u), (long)(cycles % 1000000000u)};
    /* Woken by a signal it returns early, and is called again. */
    (void)nanosleep(&length, NULL);
    return true;
}

/* ---- reset and faults ---- */

void port_reset(void)
{
    char *const arguments[] = {(char *)"lab-runner", NULL};
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_UNBLOCK, &all, NULL);
    execv("/proc/self/exe", arguments);
    _exit(EXIT_FAILURE);
}

/* Program counter and stack pointer of the code that was interrupted; zeros on processors not named here. */
static void interrupted(const ucontext_t *context, uint64_t *pc, uint64_t *sp)
{
#if defined(__x86_64__)
    *pc = (uint64_t)context->uc_mcontext.gregs[REG_RIP];
    *sp = (uint64_t)context->uc_mcontext.gregs[REG_RSP];
#elif defined(__aarch64__)
    *pc = context->uc_mcontext.pc;
    *sp = context->uc_mcontext.sp;
#elif defined(__arm__)
    *pc = context->uc_mcontext.arm_pc;
    *sp = context->uc_mcontext.arm_sp;
#else
    (void)context;
    *pc = *sp = 0;
#endif
}

static void report_fault(int number, siginfo_t *information, void *context)
{
    static const char *const names[] = {"signal", "address_low", "address_high", "pc_low",
                                        "pc_high", "sp_low", "sp_high"};
    uint64_t address = (uint64_t)(uintptr_t)information->si_addr;
    uint64_t pc;
    uint64_t sp;
    interrupted(context, &pc, &sp);
    const uint32_t values[] = {(uint32_t)number, (uint32_t)address, (uint32_t)(address >> 32), (uint32_t)pc,
                               (uint32_t)(pc >> 32), (uint32_t)sp, (uint32_t)(sp >> 32)};
    const session_fault_t fault = {names, values, sizeof values / sizeof values[0], NULL, 0};
    uintptr_t low = (uintptr_t)lab_stack;
    if (address >= low && address < low + HOSTED_GUARD_BYTES)
        session_crash("overflow", "the stack overflowed", &fault);
    else
        session_crash("crash", "the process took a signal", &fault);
    port_reset();
}

static void catch_faults(void)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    stack_t alternate = {.ss_sp = signal_stack, .ss_size = sizeof signal_stack};
    struct sigaction action = {.sa_sigaction = report_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaltstack(&alternate, NULL);
    for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++)
        sigaction(signals[i], &action, NULL);
}

#ifdef LAB_TEST_JOBS
void port_lockup(void)
{
    abort();
}
#endif

/* ---- start ---- */

static void *run(void *unused)
{
    (void)unused;
    catch_faults();
    lab_main();
}

int main(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    /* A stack of our own, painted before use: the high-water mark works as on a board. */
    memory_paint_stack(lab_port.stack, lab_port.stack_bytes);
    if (mprotect(lab_stack, HOSTED_GUARD_BYTES, PROT_NONE) != 0 || pthread_attr_init(&attributes) != 0 ||
        pthread_attr_setstack(&attributes, lab_port.stack, lab_port.stack_bytes) != 0 ||
        pthread_create(&thread, &attributes, run, NULL) != 0)
        return EXIT_FAILURE;
    pthread_join(thread, NULL);
    return EXIT_SUCCESS;
}
