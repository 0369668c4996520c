// The products in bfloat16 of one instruction set. This file is compiled once per ISA,
// like table.cpp. kBfloat16Kernels is its only external symbol.
#include "bfloat16-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

extern const Bfloat16Kernels kBfloat16Kernels;
constexpr Bfloat16Kernels kBfloat16Kernels = {
    kLowRows,      kLowColumns,    kWords,   round_all,
    low_pack_left, low_pack_right, low_gemm, low_few_rows};

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
