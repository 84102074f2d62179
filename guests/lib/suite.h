/* One line a check: what was done, what came of it, and whether that is right. Shared by the two privileged suites. */
#pragma once
#include "console.h"

/* "#PF(0002)"; ~0 is "no exception". */
void put_event(u32 vector, u64 error);
void check(const char *what, int right);
void check_value(const char *what, u64 got, u64 wanted);
void check_event(const char *what, u32 vector, u64 error, u32 wanted_vector, u64 wanted_error);
/* A line instead of checks, for what this CPU model has not. */
void not_offered(const char *what);
/* Leaves the machine: code 0 if every check was right. */
_Noreturn void finish(void);
