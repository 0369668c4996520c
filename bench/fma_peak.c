/* The FMA peak of one core: fma_peak CPU -> GFLOP/s.
 *
 * In float32, or in float64 with -DREAL=double.
 *
 * Independent chains in registers, no memory; the best of a few short runs, so that an
 * interrupted run does not count. Compiled for the machine it runs on (-march=native).
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#ifndef REAL
#define REAL float
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif

typedef REAL Vector __attribute__((vector_size(VECTOR_BYTES)));

/* 12 chains hide a latency of 4 at up to three per cycle, and fit into 16 registers.
 * With 32 registers there are 20, for four per cycle. Without FMA the compiler emits
 * two instructions per step, and the figure is their peak. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define MORE_CHAINS 1
enum { kChains = 20 };
#else
#define MORE_CHAINS 0
enum { kChains = 12 };
#endif
enum { kLanes = VECTOR_BYTES / sizeof(REAL), kSteps = 1000000, kRuns = 10 };

/* Keeps each chain in its own register; prevents the compiler from merging chains. */
#if defined(__x86_64__)
#define KEEP(v) __asm__ volatile("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__ volatile("" : "+w"(v))
#else
#define KEEP(v) __asm__ volatile("" : "+m"(v))
#endif

static double seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Runs the chains once; returns GFLOP/s, two operations per lane. */
static double run(void) {
  Vector a0 = {0}, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0;
  Vector a6 = a0, a7 = a0, a8 = a0, a9 = a0, a10 = a0, a11 = a0;
#if MORE_CHAINS
  Vector b0 = a0, b1 = a0, b2 = a0, b3 = a0, b4 = a0, b5 = a0, b6 = a0, b7 = a0;
#endif
  Vector x = a0 + (REAL)0.999, y = a0 + (REAL)1e-3;
  KEEP(x);
  KEEP(y);
  double start = seconds();
  for (long i = 0; i < kSteps; ++i) {
#define STEP(a)  \
  a = a * x + y; \
  KEEP(a)
    STEP(a0);
    STEP(a1);
    STEP(a2);
    STEP(a3);
    STEP(a4);
    STEP(a5);
    STEP(a6);
    STEP(a7);
    STEP(a8);
    STEP(a9);
    STEP(a10);
    STEP(a11);
#if MORE_CHAINS
    STEP(b0);
    STEP(b1);
    STEP(b2);
    STEP(b3);
    STEP(b4);
    STEP(b5);
    STEP(b6);
    STEP(b7);
#endif
  }
  return 2.0 * kChains * kLanes * kSteps / (seconds() - start) / 1e9;
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: %s CPU\n", argv[0]);
    return 1;
  }
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(atoi(argv[1]), &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    perror("sched_setaffinity");
    return 1;
  }
#endif
  double best = 0.0;
  for (int i = 0; i < kRuns; ++i) {
    double rate = run();
    if (rate > best) best = rate;
  }
  printf("%.2f\n", best);
  return 0;
}
