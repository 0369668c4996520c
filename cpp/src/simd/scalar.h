// Vectors of one lane in portable C++. They are always compiled, and are the bitwise
// reference for the other instruction sets.
#pragma once

#include <math.h>
#include <string.h>

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
struct Mask {
  bool m;
};
template <class T>
struct Bits {
  typename BitsOf<T>::type b;
};

template <class T>
struct Vec {
  static constexpr Index kLanes = 1;
  T v;

  static FASTMLP_MEMBER Vec load(const T* p) { return {*p}; }
  static FASTMLP_MEMBER Vec load_partial(const T* p, Index n) {
    return {n > 0 ? *p : T(0)};
  }
  static FASTMLP_MEMBER Vec set1(T x) { return {x}; }
  FASTMLP_MEMBER void store(T* p) const { *p = v; }
  FASTMLP_MEMBER void store_partial(T* p, Index n) const {
    if (n > 0) *p = v;
  }
};

// clang-format off
template <class T> FASTMLP_INLINE Vec<T> operator+(Vec<T> a, Vec<T> b) { return {a.v + b.v}; }
template <class T> FASTMLP_INLINE Vec<T> operator-(Vec<T> a, Vec<T> b) { return {a.v - b.v}; }
template <class T> FASTMLP_INLINE Vec<T> operator*(Vec<T> a, Vec<T> b) { return {a.v * b.v}; }
template <class T> FASTMLP_INLINE Vec<T> operator/(Vec<T> a, Vec<T> b) { return {a.v / b.v}; }

FASTMLP_INLINE Vec<float> fma(Vec<float> a, Vec<float> b, Vec<float> c) { return {::fmaf(a.v, b.v, c.v)}; }
FASTMLP_INLINE Vec<double> fma(Vec<double> a, Vec<double> b, Vec<double> c) { return {::fma(a.v, b.v, c.v)}; }
template <class T> FASTMLP_INLINE Vec<T> fnma(Vec<T> a, Vec<T> b, Vec<T> c) { return fma(Vec<T>{-a.v}, b, c); }
FASTMLP_INLINE Vec<float> sqrt(Vec<float> a) { return {::sqrtf(a.v)}; }
FASTMLP_INLINE Vec<double> sqrt(Vec<double> a) { return {::sqrt(a.v)}; }

template <class T> FASTMLP_INLINE Mask<T> operator<(Vec<T> a, Vec<T> b) { return {a.v < b.v}; }
template <class T> FASTMLP_INLINE Mask<T> operator<=(Vec<T> a, Vec<T> b) { return {a.v <= b.v}; }
template <class T> FASTMLP_INLINE Mask<T> operator>(Vec<T> a, Vec<T> b) { return {a.v > b.v}; }
template <class T> FASTMLP_INLINE Mask<T> operator>=(Vec<T> a, Vec<T> b) { return {a.v >= b.v}; }
template <class T> FASTMLP_INLINE Mask<T> operator==(Vec<T> a, Vec<T> b) { return {a.v == b.v}; }
template <class T> FASTMLP_INLINE Mask<T> is_nan(Vec<T> a) { return {a.v != a.v}; }
template <class T> FASTMLP_INLINE Mask<T> operator&(Mask<T> a, Mask<T> b) { return {a.m && b.m}; }
template <class T> FASTMLP_INLINE Mask<T> operator|(Mask<T> a, Mask<T> b) { return {a.m || b.m}; }
template <class T> FASTMLP_INLINE Mask<T> operator!(Mask<T> a) { return {!a.m}; }
template <class T> FASTMLP_INLINE bool any(Mask<T> a) { return a.m; }
template <class T> FASTMLP_INLINE Vec<T> select(Mask<T> m, Vec<T> a, Vec<T> b) { return m.m ? a : b; }
template <class T> FASTMLP_INLINE Vec<T> min(Vec<T> a, Vec<T> b) { return {a.v < b.v ? a.v : b.v}; }
template <class T> FASTMLP_INLINE Vec<T> max(Vec<T> a, Vec<T> b) { return {a.v > b.v ? a.v : b.v}; }

template <> FASTMLP_SPECIAL Bits<float> set1_bits<float>(uint32_t u) { return {u}; }
template <> FASTMLP_SPECIAL Bits<double> set1_bits<double>(uint64_t u) { return {u}; }
template <class T> FASTMLP_INLINE Bits<T> to_bits(Vec<T> a) { Bits<T> r; memcpy(&r.b, &a.v, sizeof r.b); return r; }
template <class T> FASTMLP_INLINE Vec<T> from_bits(Bits<T> a) { Vec<T> r; memcpy(&r.v, &a.b, sizeof r.v); return r; }
template <class T> FASTMLP_INLINE Bits<T> operator+(Bits<T> a, Bits<T> b) { return {a.b + b.b}; }
template <class T> FASTMLP_INLINE Bits<T> operator-(Bits<T> a, Bits<T> b) { return {a.b - b.b}; }
template <class T> FASTMLP_INLINE Bits<T> operator&(Bits<T> a, Bits<T> b) { return {a.b & b.b}; }
template <class T> FASTMLP_INLINE Bits<T> operator|(Bits<T> a, Bits<T> b) { return {a.b | b.b}; }
template <class T> FASTMLP_INLINE Bits<T> operator^(Bits<T> a, Bits<T> b) { return {a.b ^ b.b}; }
template <int N, class T> FASTMLP_INLINE Bits<T> shl(Bits<T> a) { return {a.b << N}; }
template <int N, class T> FASTMLP_INLINE Bits<T> shr(Bits<T> a) { return {a.b >> N}; }
template <class T> FASTMLP_INLINE Mask<T> nonzero(Bits<T> a) { return {a.b != 0}; }
FASTMLP_INLINE Bits<double> multiply_low_halves(Bits<double> a, Bits<double> b) { return {uint64_t{static_cast<uint32_t>(a.b)} * static_cast<uint32_t>(b.b)}; }
template <class T> FASTMLP_INLINE void transpose(Vec<T> (&)[1]) {}
// clang-format on

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
