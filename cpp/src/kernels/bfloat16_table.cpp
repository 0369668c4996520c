// The products in bfloat16 of one instruction set. This file is compiled once per ISA,
// like table.cpp. kBfloat16Kernels is its only external symbol.
#if defined(FASTMLP_ISA_amx)
#include "amx-inl.h"
#else
#include "bfloat16_product-inl.h"
#endif

namespace fastmlp {
namespace FASTMLP_ISA {

extern const Bfloat16Kernels kBfloat16Kernels;
#if defined(FASTMLP_ISA_amx)
constexpr Bfloat16Kernels kBfloat16Kernels = {kAmxRows,  kLowColumns,   kWords,
                                              round_all, amx_pack_left, low_pack_right,
                                              amx_gemm,  low_few_rows};
#else
constexpr Bfloat16Kernels kBfloat16Kernels = {kLowRows,  kLowColumns,   kWords,
                                              round_all, low_pack_left, low_pack_right,
                                              low_gemm,  low_few_rows};
#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
