/* Stands in for a generated model.h. */
#ifndef MODEL_H
#define MODEL_H

#define LAB_MODEL_ARENA_BYTES 128

#endif
