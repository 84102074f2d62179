#pragma once
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct workload {
  const char *name;
  u64 (*run)(void);
  u64 expected; /* what native.c printed on a real processor */
};
extern const struct workload workloads[];
extern const int workload_count;
