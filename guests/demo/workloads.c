/*
 * What the demo computes. Nothing here touches the machine, so the same file, compiled for the host, prints the same
 * results natively (native.c): that run is where the expected sums come from.
 */
#include "workloads.h"

static u32 random_state;
static u32 next_random(void) { return random_state = random_state * 1664525u + 1013904223u; }

static u8 buffer[1 << 16];
static void fill(u32 seed) {
  random_state = seed;
  for (u32 i = 0; i < sizeof buffer; i++) buffer[i] = next_random() >> 24;
}

/* CRC-32 (IEEE 802.3, reflected), byte table: shifts, table look-ups, a tight loop. */
static u64 crc32(void) {
  static u32 table[256];
  for (u32 i = 0; i < 256; i++) {
    u32 entry = i;
    for (int bit = 0; bit < 8; bit++) entry = entry & 1 ? (entry >> 1) ^ 0xedb88320u : entry >> 1;
    table[i] = entry;
  }
  fill(1);
  u32 crc = ~0u;
  for (int round = 0; round < 16; round++)
    for (u32 i = 0; i < sizeof buffer; i++) crc = table[(crc ^ buffer[i]) & 255] ^ (crc >> 8);
  return ~crc;
}

/* SHA-256 of 64 KiB: FIPS 180-4. Rotations and additions. */
static u32 rotate(u32 value, int by) { return (value >> by) | (value << (32 - by)); }

static u64 sha256(void) {
  static const u32 k[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
      0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
      0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
      0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
      0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
      0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
  u32 h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  fill(2);
  for (u32 block = 0; block <= sizeof buffer / 64; block++) {
    u32 w[64];
    for (int i = 0; i < 16; i++) {
      const u8 *p = buffer + block * 64 + i * 4;
      if (block < sizeof buffer / 64) w[i] = (u32)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3];
      else w[i] = i == 0 ? 0x80000000u : i == 15 ? sizeof buffer * 8 : 0; /* the padding block */
    }
    for (int i = 16; i < 64; i++) {
      u32 s0 = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ (w[i - 15] >> 3);
      u32 s1 = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ (w[i - 2] >> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    u32 v[8];
    for (int i = 0; i < 8; i++) v[i] = h[i];
    for (int i = 0; i < 64; i++) {
      u32 s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      u32 t1 = v[7] + s1 + ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i];
      u32 s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      u32 t2 = s0 + ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
      for (int j = 7; j > 0; j--) v[j] = v[j - 1];
      v[4] += t1;
      v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
  }
  return (u64)h[0] << 32 | h[1];
}

/* Calls and returns. */
__attribute__((noinline)) static u32 fib(u32 n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static u64 fibonacci(void) { return fib(24); }

/* Shell sort: branches that cannot be predicted. The sum weighs every element by its place. */
static u64 sort(void) {
  static u32 numbers[8192];
  enum { COUNT = sizeof numbers / 4 };
  random_state = 3;
  for (u32 i = 0; i < COUNT; i++) numbers[i] = next_random();
  for (u32 gap = COUNT / 2; gap; gap /= 2)
    for (u32 i = gap; i < COUNT; i++) {
      u32 moved = numbers[i], j = i;
      for (; j >= gap && numbers[j - gap] > moved; j -= gap) numbers[j] = numbers[j - gap];
      numbers[j] = moved;
    }
  u64 sum = 0;
  for (u32 i = 0; i < COUNT; i++) {
    if (i && numbers[i - 1] > numbers[i]) return 0;
    sum += (u64)numbers[i] * (i + 1);
  }
  return sum;
}

/* Packed doubles: the elements are small integers, so every order of adding gives the same product. */
static u64 matrix(void) {
  enum { SIZE = 48 };
  typedef double pair __attribute__((vector_size(16)));
  static double a[SIZE][SIZE];
  static pair b[SIZE][SIZE / 2], c[SIZE][SIZE / 2];
  random_state = 4;
  for (int i = 0; i < SIZE; i++)
    for (int j = 0; j < SIZE; j++) {
      a[i][j] = next_random() >> 20;
      b[i][j / 2][j & 1] = next_random() >> 20;
    }
  for (int i = 0; i < SIZE; i++)
    for (int j = 0; j < SIZE / 2; j++) {
      pair sum = {0, 0};
      for (int k = 0; k < SIZE; k++) sum += (pair){a[i][k], a[i][k]} * b[k][j];
      c[i][j] = sum;
    }
  double trace = 0, root = 0;
  for (int i = 0; i < SIZE; i++) trace += c[i][i / 2][i & 1];
  __asm__("sqrtsd %1, %0" : "=x"(root) : "x"(trace));
  return (u64)trace ^ ((u64)root << 40);
}

/* x87 with 64-bit mantissas: pi by the series of Nilakantha and sine by FSIN; the bits are the result. */
static u64 x87(void) {
  union { long double value; struct { u64 mantissa; u16 exponent; } bits; } pi = {.value = 3};
  for (int i = 2; i < 2000; i += 2) {
    long double term = 4.0L / ((long double)i * (i + 1) * (i + 2));
    pi.value += i & 2 ? term : -term;
  }
  long double root;
  __asm__("fsqrt" : "=t"(root) : "0"(pi.value));
  return pi.bits.mantissa ^ (u64)(root * 1e15L);
}

/* String instructions, forwards, backwards, overlapping and with each element size. */
static u64 strings(void) {
  fill(5);
  u64 sum = 0;
  for (int round = 0; round < 64; round++) {
    void *to = buffer + 1000 + round, *from = buffer + 7 * round;
    u64 count = 4096 + round;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory"); /* overlapping: repeats */
    to = buffer + 40000 + round, from = buffer + 39990, count = 1000;
    __asm__ volatile("std; rep movsl; cld" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    to = buffer + 50000 + round * 8, count = 100;
    __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(0x0123456789abcdefULL * (round + 1)) : "memory");
    to = buffer, count = sizeof buffer;
    __asm__ volatile("repne scasb" : "+D"(to), "+c"(count) : "a"(round * 3) : "cc", "memory");
    sum = sum * 31 + count;
    to = buffer + 1000, from = buffer + 1000 + 7 * round, count = 4096;
    __asm__ volatile("repe cmpsw" : "+D"(to), "+S"(from), "+c"(count) : : "cc", "memory");
    sum = sum * 31 + count;
  }
  for (u32 i = 0; i < sizeof buffer; i++) sum = sum * 33 + buffer[i];
  return sum;
}

/* Wide arithmetic: 64 x 64 multiplication, 128-by-64 division, bit counting and scanning. */
static u64 integer(void) {
  u64 x = 0x9e3779b97f4a7c15ULL, sum = 0;
  for (u32 i = 1; i < 20000; i++) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    unsigned __int128 product = (unsigned __int128)x * (x ^ i);
    u64 high = product >> 64, low = product, quotient, remainder;
    __asm__("divq %4" : "=a"(quotient), "=d"(remainder) : "a"(low), "d"(high % (x | 1)), "r"(x | 1) : "cc");
    sum += quotient ^ remainder ^ __builtin_ctzll(x | 1ULL << 63) ^ __builtin_clzll(x | 1);
    __asm__("stc; adc %1, %0" : "+r"(sum) : "r"(x) : "cc");
    sum = (sum << 9) | (sum >> 55);
  }
  return sum;
}

const struct workload workloads[] = {
    {"integer: multiply, divide, scan", integer, 0x432f9d70c090f739},
    {"crc32 of 1 MiB", crc32, 0x000000005a6ee476},
    {"sha256 of 64 KiB, first 8 bytes", sha256, 0xad52805e1c659975},
    {"fib(24), recursive", fibonacci, 0x000000000000b520},
    {"shell sort of 8192 numbers", sort, 0x015254e19884cb71},
    {"string instructions", strings, 0x3d7fce260e0134c3},
    {"sse2: 48x48 matrices", matrix, 0x0186ce02549978c9},
    {"x87: pi and its root", x87, 0xc90996abf40be313},
};
const int workload_count = sizeof workloads / sizeof workloads[0];
