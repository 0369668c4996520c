// The elementary functions over arrays.
#pragma once

#include "loops-inl.h"
#include "math-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
void elementary(Elementary f, T* out, const T* x, Index n) {
  switch (f) {
#define FASTMLP_ELEMENTARY(name)                                        \
  case Elementary::name:                                                \
    return for_each_vector<T>(n, [&](auto io, Index i) FASTMLP_LAMBDA { \
      io.store(out + i, v##name(io.load(x + i)));                       \
    });
    FASTMLP_ELEMENTARY(exp)
    FASTMLP_ELEMENTARY(expm1)
    FASTMLP_ELEMENTARY(log)
    FASTMLP_ELEMENTARY(log1p)
    FASTMLP_ELEMENTARY(tanh)
    FASTMLP_ELEMENTARY(sigmoid)
    FASTMLP_ELEMENTARY(sin)
    FASTMLP_ELEMENTARY(cos)
    FASTMLP_ELEMENTARY(erf)
    FASTMLP_ELEMENTARY(erfc)
#undef FASTMLP_ELEMENTARY
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
