// All kernels of one instruction set. This file is compiled once per ISA, with that
// ISA's flags and FASTMLP_ISA set to its name. kKernels is its only external symbol.
#include "activation-inl.h"
#include "derivative-inl.h"
#include "elementary-inl.h"
#include "fastmlp/kernel_table.h"
#include "gemm-inl.h"
#include "glu-inl.h"
#include "loops-inl.h"
#include "loss-inl.h"
#include "math-inl.h"
#include "noise-inl.h"
#include "norm-inl.h"
#include "optimizer-inl.h"
#include "pack-inl.h"
#include "prelu-inl.h"
#include "simd.h"
#include "sparse-inl.h"
#include "vector-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
constexpr KernelTable<T> make_table() {
  KernelTable<T> table = {};
  table.isa = Isa::FASTMLP_ISA;
  table.lanes = Vec<T>::kLanes;
  table.mr = kTileRows;
  table.nr = tile_columns<T>();
  table.packing_pays = kPackingPays;
#define FASTMLP_SLOT(name) table.name = name<T>;
  FASTMLP_KERNELS(FASTMLP_SLOT)
#undef FASTMLP_SLOT
#define FASTMLP_STEP(name, Name) table.name##_step = name##_step<T>;
  FASTMLP_OPTIMIZERS(FASTMLP_STEP)
#undef FASTMLP_STEP
  return table;
}

extern const KernelTables kKernels;
constexpr KernelTables kKernels = {make_table<float>(), make_table<double>()};

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
