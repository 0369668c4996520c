/* Time to pass a cache line between two CPUs: ping_pong CPU CPU -> nanoseconds.
 *
 * Two threads, each bound to its CPU, pass a counter back and forth through one cache
 * line. The figure tells whether the two share a cache: timings with two threads taken
 * on different pairs of CPUs cannot be compared.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kRounds = 200000 };

static _Atomic long counter;

static void bind_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0) {
    perror("sched_setaffinity");
    exit(1);
  }
}

/* Waits for its parity of the counter and adds one. */
static void play(long parity) {
  for (long i = 0; i < kRounds; ++i) {
    while (atomic_load_explicit(&counter, memory_order_acquire) != 2 * i + parity) {
    }
    atomic_store_explicit(&counter, 2 * i + parity + 1, memory_order_release);
  }
}

static void* opponent(void* cpu) {
  bind_to(*(int*)cpu);
  play(1);
  return NULL;
}

int main(int argc, char** argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s CPU CPU\n", argv[0]);
    return 1;
  }
  int second = atoi(argv[2]);
  bind_to(atoi(argv[1]));
  pthread_t thread;
  struct timespec start, stop;
  if (pthread_create(&thread, NULL, opponent, &second) != 0) return 1;
  clock_gettime(CLOCK_MONOTONIC, &start);
  play(0);
  pthread_join(thread, NULL);
  clock_gettime(CLOCK_MONOTONIC, &stop);
  double ns = 1e9 * (double)(stop.tv_sec - start.tv_sec) +
              (double)(stop.tv_nsec - start.tv_nsec);
  printf("%.1f\n", ns / (2.0 * kRounds));
  return 0;
}
