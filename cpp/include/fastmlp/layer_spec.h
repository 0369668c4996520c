// A layer as the user describes it. The kinds are listed once, in FASTMLP_LAYER_KINDS,
// which gives the enumeration, the count, the names and the op that computes each kind.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fastmlp/types.h"

namespace fastmlp {

// X(enumerator, op, name): the op is a struct in network/ops; the name is used in
// Python and in messages. `add` ends a residual block, `concat` joins branches.
#define FASTMLP_LAYER_KINDS(X)                                                  \
  X(dense, DenseOp, "dense")                                                    \
  X(activation, ActivationOp, "activation")                                     \
  X(dropout, NoiseOp<LayerKind::dropout>, "dropout")                            \
  X(alpha_dropout, NoiseOp<LayerKind::alpha_dropout>, "alpha_dropout")          \
  X(gaussian_noise, NoiseOp<LayerKind::gaussian_noise>, "gaussian_noise")       \
  X(gaussian_dropout, NoiseOp<LayerKind::gaussian_dropout>, "gaussian_dropout") \
  X(layer_norm, LayerNormOp, "layer_norm")                                      \
  X(rms_norm, RMSNormOp, "rms_norm")                                            \
  X(group_norm, GroupNormOp, "group_norm")                                      \
  X(batch_norm, BatchNormOp, "batch_norm")                                      \
  X(prelu, PReLUOp, "prelu")                                                    \
  X(glu, GLUOp, "glu")                                                          \
  X(scale, ScaleOp, "scale")                                                    \
  X(standardise, StandardiseOp, "standardise")                                  \
  X(concat, ConcatOp, "concat")                                                 \
  X(columns, ColumnsOp, "columns")                                              \
  X(embedding, EmbeddingOp, "embedding")                                        \
  X(periodic, PeriodicOp, "periodic")                                           \
  X(piecewise_linear, PiecewiseLinearOp, "piecewise_linear")                    \
  X(add, AddOp, "residual")

enum class LayerKind : int {
#define FASTMLP_ENUMERATOR(kind, op, name) kind,
  FASTMLP_LAYER_KINDS(FASTMLP_ENUMERATOR)
#undef FASTMLP_ENUMERATOR
};

#define FASTMLP_COUNT(kind, op, name) +1
constexpr int kLayerKindCount = FASTMLP_LAYER_KINDS(FASTMLP_COUNT);
#undef FASTMLP_COUNT

// Names in the order of the enumerators of LayerKind.
inline constexpr const char* kLayerKindNames[kLayerKindCount] = {
#define FASTMLP_NAME(kind, op, name) name,
    FASTMLP_LAYER_KINDS(FASTMLP_NAME)
#undef FASTMLP_NAME
};

constexpr const char* layer_kind_name(LayerKind kind) {
  return kLayerKindNames[static_cast<size_t>(kind)];
}

// How the weight of a dense layer is computed from other parameters; `none`: it is one.
// X(enumerator)
#define FASTMLP_PARAMETRIZATIONS(X) \
  X(none)                           \
  X(weight_norm)                    \
  X(spectral_norm)

enum class Parametrization : int {
#define FASTMLP_ENUMERATOR(kind) kind,
  FASTMLP_PARAMETRIZATIONS(FASTMLP_ENUMERATOR)
#undef FASTMLP_ENUMERATOR
};

// Names in the order of the enumerators of Parametrization.
inline constexpr const char* kParametrizationNames[] = {
#define FASTMLP_NAME(kind) #kind,
    FASTMLP_PARAMETRIZATIONS(FASTMLP_NAME)
#undef FASTMLP_NAME
};

// A custom elementwise activation. It is called by one thread at a time, on blocks of n
// elements. An exception thrown by it propagates to the caller of the network.
class CustomActivation {
 public:
  virtual ~CustomActivation() = default;
  // h = f(z); d = f'(z).
  virtual void forward(float* h, const float* z, Index n) const = 0;
  virtual void forward(double* h, const double* z, Index n) const = 0;
  virtual void derivative(float* d, const float* z, Index n) const = 0;
  virtual void derivative(double* d, const double* z, Index n) const = 0;
};

// A layer: its kind and the fields that this kind uses.
struct LayerSpec {
  // A sequence of layers, and its name within its layer: "body", "branches.0".
  struct Branch {
    std::string name;
    std::vector<LayerSpec> layers;
  };

  // act(h W + b)
  LayerSpec(Index units, ActivationSpec act = Activation::identity,
            bool with_bias = true)
      : width(units), activation(act), bias(with_bias) {}
  explicit LayerSpec(LayerKind its_kind) : kind(its_kind) {}
  static LayerSpec activation_only(ActivationSpec act) {
    LayerSpec spec(LayerKind::activation);
    spec.activation = act;
    return spec;
  }
  static LayerSpec activation_only(std::shared_ptr<const CustomActivation> act) {
    LayerSpec spec(LayerKind::activation);
    spec.custom = std::move(act);
    return spec;
  }
  // In training, an element becomes 0 with probability `rate`, else h / (1 - rate).
  static LayerSpec dropout(double rate) {
    LayerSpec spec(LayerKind::dropout);
    spec.rate = rate;
    return spec;
  }
  // In training, an element becomes the limit of selu at -infinity with probability
  // `rate`; a linear function of the result keeps mean 0 and variance 1.
  static LayerSpec alpha_dropout(double rate) {
    LayerSpec spec(LayerKind::alpha_dropout);
    spec.rate = rate;
    return spec;
  }
  // In training, h + n with normal numbers n of this standard deviation and mean 0.
  static LayerSpec gaussian_noise(double deviation) {
    LayerSpec spec(LayerKind::gaussian_noise);
    spec.rate = deviation;
    return spec;
  }
  // In training, h n with normal numbers n of mean 1 and variance rate / (1 - rate).
  static LayerSpec gaussian_dropout(double rate) {
    LayerSpec spec(LayerKind::gaussian_dropout);
    spec.rate = rate;
    return spec;
  }
  // (h - mean) / sqrt(var + eps) * scale + shift, with the mean and variance of each
  // row.
  static LayerSpec layer_norm(double eps = 1e-5, bool affine = true) {
    LayerSpec spec(LayerKind::layer_norm);
    spec.eps = eps;
    spec.bias = affine;
    return spec;
  }
  // h / sqrt(mean(h^2) + eps) * scale, with the mean of each row.
  static LayerSpec rms_norm(double eps = 1e-5, bool affine = true) {
    LayerSpec spec(LayerKind::rms_norm);
    spec.eps = eps;
    spec.bias = affine;
    return spec;
  }
  // layer_norm with the mean and variance of each of `groups` equal parts of a row.
  static LayerSpec group_norm(Index groups, double eps = 1e-5, bool affine = true) {
    LayerSpec spec(LayerKind::group_norm);
    spec.groups = groups;
    spec.eps = eps;
    spec.bias = affine;
    return spec;
  }
  // layer_norm with the mean and variance of each column: in training the statistics of
  // the batch, otherwise their running averages. Each training step moves these
  // averages towards the batch's statistics by the fraction `momentum` of the
  // difference.
  static LayerSpec batch_norm(double eps = 1e-5, double momentum = 0.1,
                              bool affine = true) {
    LayerSpec spec(LayerKind::batch_norm);
    spec.eps = eps;
    spec.momentum = momentum;
    spec.bias = affine;
    return spec;
  }
  // h for h > 0, else slope * h with a learned slope for each unit or, if `shared`, one
  // for all.
  static LayerSpec prelu(double initial = 0.25, bool shared = false) {
    LayerSpec spec(LayerKind::prelu);
    spec.slope = initial;
    spec.shared = shared;
    return spec;
  }
  // The first half of h times act(the second half), elementwise.
  static LayerSpec glu(ActivationSpec act = Activation::sigmoid) {
    LayerSpec spec(LayerKind::glu);
    spec.activation = act;
    return spec;
  }
  // h times a learned factor for each unit.
  static LayerSpec scale() { return LayerSpec(LayerKind::scale); }
  // (h - mean) / sqrt(var) with statistics of data for each unit, which training leaves
  // unchanged; if `inverse`, h sqrt(var) + mean.
  static LayerSpec standardise(bool inverse = false) {
    LayerSpec spec(LayerKind::standardise);
    spec.inverse = inverse;
    return spec;
  }
  // h + body(h), or h W + b + body(h) if body changes the width.
  static LayerSpec residual(std::vector<LayerSpec> body) {
    LayerSpec spec(LayerKind::add);
    spec.body = std::move(body);
    return spec;
  }
  // Some columns of h, by index.
  static LayerSpec select_columns(std::vector<Index> indices) {
    LayerSpec spec(LayerKind::columns);
    spec.columns = std::move(indices);
    return spec;
  }
  // For each column of h, which holds the numbers of categories, `units` learned
  // numbers of the category. `sizes`: the number of categories of each column.
  static LayerSpec embedding(std::vector<Index> sizes, Index units) {
    LayerSpec spec(LayerKind::embedding);
    spec.sizes = std::move(sizes);
    spec.width = units;
    return spec;
  }
  // For each column of h, sines and cosines of 2 pi h times learned frequencies.
  static LayerSpec periodic(Index frequencies) {
    LayerSpec spec(LayerKind::periodic);
    spec.width = frequencies;
    return spec;
  }
  // For each column of h, how far it is through each of some bins, whose places are
  // statistics.
  static LayerSpec piecewise_linear(Index bins) {
    LayerSpec spec(LayerKind::piecewise_linear);
    spec.width = bins;
    return spec;
  }
  // The outputs of all branches side by side. Each branch takes h; one without layers
  // is h itself.
  static LayerSpec concat(std::vector<Branch> branches) {
    LayerSpec spec(LayerKind::concat);
    spec.branches = std::move(branches);
    return spec;
  }

  LayerKind kind = LayerKind::dense;
  Index width = 0;
  ActivationSpec activation = Activation::identity;
  Parametrization parametrization = Parametrization::none;  // of a dense layer
  // For a normalisation: whether it has a scale and, except for rms_norm, a shift.
  bool bias = true;
  double rate = 0;  // of gaussian_noise: the standard deviation
  double eps = 0, momentum = 0;
  Index groups = 1;
  double slope = 0.25;  // initially
  bool shared = false;
  bool inverse = false;
  std::vector<LayerSpec> body;
  std::vector<Branch> branches;
  std::vector<Index> columns, sizes;
  std::shared_ptr<const CustomActivation> custom;
};

}  // namespace fastmlp
