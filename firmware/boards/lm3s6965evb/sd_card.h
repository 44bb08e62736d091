/* What the board has around its SD card. */
#ifndef LAB_SD_CARD_H
#define LAB_SD_CARD_H

#include <stdbool.h>

/* Clocks and pins of the SSI and of the card's select line. */
void card_power(void);

/* The card's select line: low where it is selected. */
void card_select(bool selected);

#endif
