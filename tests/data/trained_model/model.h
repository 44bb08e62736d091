#ifndef MODEL_H
#define MODEL_H

#define LAB_MODEL_ARENA_BYTES 1232

#endif
