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
constexpr Bfloat16Kernels kBfloat16Kernels = {
    kAmxRows,      kBfloat16Columns,    kWords,   round_all,
    amx_pack_left, bfloat16_pack_right, amx_gemm, bfloat16_few_rows};
#else
constexpr Bfloat16Kernels kBfloat16Kernels = {
    kBfloat16Rows,      kBfloat16Columns,    kWords,        round_all,
    bfloat16_pack_left, bfloat16_pack_right, bfloat16_gemm, bfloat16_few_rows};
#endif

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
