/* One line a check: what was done, what came of it, and whether that is right. */
#include "suite.h"

static u32 checks, wrong;

void put_event(u32 vector, u64 error) {
  static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "", "#TS", "#NP", "#SS", "#GP", "#PF", "", "#MF", "#AC", "#MC", "#XM"};
  if (vector == ~0u) put("no exception");
  else if (vector < sizeof names / sizeof names[0]) put(names[vector]);
  else put("interrupt "), put_hex(vector, 2);
  if (vector == 8 || (vector >= 10 && vector <= 14) || vector == 17) put("("), put_hex(error, 4), put(")");
}

static void verdict(int right) {
  checks++;
  if (!right) wrong++;
  put(right ? " ok\n" : " WRONG\n");
}

void check(const char *what, int right) {
  put(what);
  put(":");
  verdict(right);
}

void check_value(const char *what, u64 got, u64 wanted) {
  put(what);
  put(": ");
  put_hex(got, got >> 32 ? 16 : 8);
  if (got != wanted) put(", wanted "), put_hex(wanted, wanted >> 32 ? 16 : 8);
  verdict(got == wanted);
}

void check_event(const char *what, u32 vector, u64 error, u32 wanted_vector, u64 wanted_error) {
  int right = vector == wanted_vector && (wanted_vector == ~0u || error == wanted_error);
  put(what);
  put(": ");
  put_event(vector, error);
  if (!right) put(", wanted "), put_event(wanted_vector, wanted_error);
  verdict(right);
}

void not_offered(const char *what) {
  put(what);
  put(": not offered by CPUID\n");
}

_Noreturn void finish(void) {
  put_decimal(checks - wrong);
  put(" of ");
  put_decimal(checks);
  put(" checks right\n");
  leave(wrong ? 1 : 0);
}
