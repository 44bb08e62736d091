/* The clock behind port_cycles(): each board takes one of the clock_*.c. */
#ifndef LAB_CLOCK_H
#define LAB_CLOCK_H

/* Called once, before the first port_cycles(). */
void clock_start(void);

/* Called after each sleep by boards whose counter may stand meanwhile. */
void clock_slept(void);

#endif
