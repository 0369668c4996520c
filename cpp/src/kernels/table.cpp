// All kernels of one instruction set. Compiled once per ISA with that ISA's flags and
// FASTMLP_ISA set to its name; kKernels is the one symbol that others see.
#include "activation-inl.h"
#include "derivative-inl.h"
#include "dropout-inl.h"
#include "elementary-inl.h"
#include "fastmlp/kernel_table.h"
#include "gemm-inl.h"
#include "loops-inl.h"
#include "loss-inl.h"
#include "math-inl.h"
#include "norm-inl.h"
#include "optimizer-inl.h"
#include "pack-inl.h"
#include "simd.h"
#include "vector-inl.h"

namespace fastmlp {
namespace FASTMLP_ISA {

template <class T>
constexpr KernelTable<T> make_table() {
  return {Isa::FASTMLP_ISA,
          Vec<T>::kLanes,
          kTileRows,
          tile_columns<T>(),
          kPackingPays,
          gemm<T>,
          pack_left<T>,
          pack_right<T>,
          column_sum<T>,
          all_finite<T>,
          activation_forward<T>,
          activation_backward<T>,
          loss_rows<T>,
          layer_norm_forward<T>,
          layer_norm_backward<T>,
          column_moments<T>,
          batch_norm_forward<T>,
          batch_norm_backward<T>,
          batch_norm_sums<T>,
          column_dot<T>,
          add<T>,
          multiply<T>,
          dropout<T>,
          scale_groups<T>,
          add_scaled_groups<T>,
          outer_rows<T>,
          gemm_gather_k<T>,
          activation_second<T>,
          softmax_second<T>,
          layer_norm_second<T>,
          sgd_step<T>,
          adagrad_step<T>,
          rmsprop_step<T>,
          adam_step<T>,
          dot<T>,
          axpy<T>,
          sum_of_squares<T>,
          condition_gradient<T>,
          interpolate<T>,
          elementary<T>};
}

extern const KernelTables kKernels;
constexpr KernelTables kKernels = {make_table<float>(), make_table<double>()};

}  // namespace FASTMLP_ISA
}  // namespace fastmlp
