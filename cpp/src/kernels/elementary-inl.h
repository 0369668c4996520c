// The elementary functions applied to arrays.
#pragma once

#include "loops-inl.h"
#include "math-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
void elementary(Elementary f, T* out, const T* x, Index n) {
  switch (f) {
#define X(name)                                                         \
  case Elementary::name:                                                \
    return for_each_vector<T>(n, [&](auto io, Index i) FASTMLP_LAMBDA { \
      io.store(out + i, v##name(io.load(x + i)));                       \
    });
    FASTMLP_ELEMENTARY(X)
#undef X
  }
}

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
