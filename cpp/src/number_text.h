// Numbers in error messages.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

namespace fastmlp::detail {

// With 15 significant digits, so that a decimal number appears as it was written.
inline std::string in_full(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.15g", x);
  return text;
}

inline std::string in_short(double x) {
  if (!std::isfinite(x)) return "not finite";
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

// A number with its noun, in the plural unless the number is 1.
inline std::string counted(long long n, const char* one, const char* many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

}  // namespace fastmlp::detail
