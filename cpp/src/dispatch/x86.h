// The instruction sets that an x86 CPU supports and whose registers the operating
// system saves. __builtin_cpu_supports would give the same answers, but needs a runtime
// library that Clang does not link on Windows.
#pragma once

#include <cpuid.h>

namespace fastmlp {
namespace {  // internal linkage: including files may have different compiler flags

struct X86 {
  // All require FMA, too.
  bool avx2 = false, avx512 = false, avx512_bf16 = false;
  bool amx = false;  // its tiles and products of bfloat16

  X86() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return;
    constexpr unsigned kFma = 1u << 12, kOsXsave = 1u << 27, kAvx = 1u << 28;
    if (!has(ecx, kFma | kOsXsave | kAvx)) return;
    unsigned low = 0, high = 0;  // the two halves of XCR0
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    constexpr unsigned kYmm = 0x06, kZmm = 0xe6;
    if (!has(low, kYmm) || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return;
    constexpr unsigned kAvx2 = 1u << 5;
    constexpr unsigned kAvx512f = 1u << 16, kAvx512dq = 1u << 17, kAvx512bw = 1u << 30,
                       kAvx512vl = 1u << 31;
    avx2 = has(ebx, kAvx2);
    avx512 = avx2 && has(low, kZmm) &&
             has(ebx, kAvx512f | kAvx512dq | kAvx512bw | kAvx512vl);
    constexpr unsigned kTileState = 3u << 17, kAmxTile = 1u << 24, kAmxBf16 = 1u << 22;
    const bool tiles = has(low, kTileState) && has(edx, kAmxTile | kAmxBf16);
    if (!avx512 || !__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) return;
    constexpr unsigned kAvx512Bf16 = 1u << 5;
    avx512_bf16 = has(eax, kAvx512Bf16);
    amx = avx512_bf16 && tiles;
  }
  static bool has(unsigned bits, unsigned wanted) { return (bits & wanted) == wanted; }
};

}  // namespace
}  // namespace fastmlp
