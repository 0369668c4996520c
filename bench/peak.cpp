// The peak rate of fused multiply-adds of a core with one instruction set: independent
// chains in registers, no memory. Compiled once per ISA, like the kernels.
#include "simd.h"

namespace fastmlp {
namespace FASTMLP_ISA {

// Runs `steps` rounds of kChains vector FMAs; returns the number of operations (2 per
// lane). 12 chains hide a latency of 4 at two per cycle with registers to spare.
template <class T>
double fma_rounds(Index steps, T* sink) {
  constexpr int kChains = 12;
  Vec<T> acc[kChains];
  for (int c = 0; c < kChains; ++c) acc[c] = Vec<T>::set1(static_cast<T>(c));
  const Vec<T> x = Vec<T>::set1(static_cast<T>(0.999));
  const Vec<T> y = Vec<T>::set1(static_cast<T>(1e-3));
  for (Index i = 0; i < steps; ++i) {
    for (int c = 0; c < kChains; ++c) acc[c] = fma(acc[c], x, y);
  }
  for (int c = 1; c < kChains; ++c) acc[0] = acc[0] + acc[c];
  acc[0].store(sink);
  return 2.0 * kChains * static_cast<double>(Vec<T>::kLanes) *
         static_cast<double>(steps);
}

double peak_f32(Index steps, float* sink) { return fma_rounds<float>(steps, sink); }
double peak_f64(Index steps, double* sink) { return fma_rounds<double>(steps, sink); }

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
