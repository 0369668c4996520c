// Times mlp.h, a header written by fastmlp.MLP.to_c: prints the outputs, then the
// median and the 99th percentile of a call in ns. Arguments: number of calls, inputs.
#include "mlp.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static int ascending(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e9 * (double)t.tv_sec + (double)t.tv_nsec;
}

int main(int argc, char **argv) {
  static float x[MLP_N_IN], y[MLP_N_OUT];
  const int calls = argc > 1 ? atoi(argv[1]) : 0;
  if (calls < 1 || argc != 2 + MLP_N_IN) return 1;
  for (int i = 0; i < MLP_N_IN; ++i) x[i] = strtof(argv[2 + i], NULL);
  double *const took = malloc((size_t)calls * sizeof *took);
  if (!took) return 1;
  for (int i = 0; i < calls; ++i) {
    const double start = now();
    mlp_predict(x, y);
    took[i] = now() - start;
  }
  qsort(took, (size_t)calls, sizeof *took, ascending);
  for (int i = 0; i < MLP_N_OUT; ++i) printf("%.9g ", (double)y[i]);
  printf("%.1f %.1f\n", took[calls / 2], took[calls - 1 - calls / 100]);
  free(took);
  return 0;
}
