/* How the two privileged suites catch an exception. Included behind the suite's own `struct caught`, with what its handler kept. */
#pragma once
#include "suite.h"

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, XM = 19, NONE = -1 };

extern volatile struct caught caught;
extern volatile u32 armed;
extern void *resume[5];

/* Runs the statement; NONE, or the vector of the exception that ended it. */
#define TRY(statement)                     \
  ({                                       \
    caught.vector = NONE;                  \
    if (__builtin_setjmp(resume) == 0) {   \
      armed = 1;                           \
      __asm__ volatile("" : : : "memory"); \
      statement;                           \
    }                                      \
    armed = 0;                             \
    caught.vector;                         \
  })
#define FAULTS(what, statement, vector_, error_)                     \
  do {                                                               \
    TRY(statement);                                                  \
    check_event(what, caught.vector, caught.error, vector_, error_); \
  } while (0)
#define PAGE_FAULTS(what, statement, error_, address)                       \
  do {                                                                      \
    FAULTS(what, statement, PF, error_);                                    \
    if (caught.cr2 != (address)) check_value("  CR2", caught.cr2, address); \
  } while (0)

/* A control or debug register, or general one, as wide as the mode has it. */
#ifdef __x86_64__
typedef u64 machine_word;
#else
typedef u32 machine_word;
#endif
#define READ(register) ({ machine_word v_; __asm__ volatile("mov %%" #register ", %0" : "=r"(v_)); v_; })
#define WRITE(register, value) __asm__ volatile("mov %0, %%" #register : : "r"((machine_word)(value)) : "memory")
