#include "fastmlp/caches.h"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) || defined(__i386__)
#define FASTMLP_HAVE_CPUID 1
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <fstream>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace fastmlp {
namespace {

// For what cannot be detected: the caches of most small machines are at least as large.
const Caches kAssumed = {{32 << 10, 8, 1}, {256 << 10, 8, 1}, {0, 1, 1}, false};

// The cache of a level in `found`, or null.
[[maybe_unused]] Cache* at_level(Caches& found, unsigned level) {
  Cache* const levels[] = {&found.l1d, &found.l2, &found.l3};
  return level >= 1 && level <= 3 ? levels[level - 1] : nullptr;
}

#if defined(FASTMLP_HAVE_CPUID)
bool is_amd() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (!__get_cpuid(0, &eax, &ebx, &ecx, &edx)) return false;
  // "Auth" of AuthenticAMD, and "Hygo" of HygonGenuine, which makes AMD's Zen.
  constexpr unsigned kAuth = 0x68747541, kHygo = 0x6f677948;
  return ebx == kAuth || ebx == kHygo;
}

// Intel's CPUs describe their caches in leaf 4, AMD's in leaf 0x8000001d, in the same
// form; the other leaf is then empty.
void detect_by_cpuid(Caches& found) {
  for (const unsigned leaf : {0x4u, 0x8000001du}) {
    constexpr unsigned kMost = 16;  // an end for CPUs that never report the last cache
    for (unsigned i = 0; i < kMost; ++i) {
      unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
      if (!__get_cpuid_count(leaf, i, &eax, &ebx, &ecx, &edx)) break;
      constexpr unsigned kData = 1, kUnified = 3;
      const unsigned type = eax & 0x1f, level = eax >> 5 & 0x7;
      if (type == 0) break;
      Cache* const cache = at_level(found, level);
      if (!cache || (type != kData && type != kUnified)) continue;
      const Index ways = (ebx >> 22) + 1, parts = (ebx >> 12 & 0x3ff) + 1,
                  line = (ebx & 0xfff) + 1, sets = Index{ecx} + 1;
      cache->bytes = ways * parts * line * sets;
      cache->ways = static_cast<int>(ways);
      cache->cpus = static_cast<int>((eax >> 14 & 0xfff) + 1);
    }
  }
  found.l3_is_near = is_amd();
}
#else
void detect_by_cpuid(Caches&) {}
#endif

#if defined(__linux__)
// Number of CPUs in a list such as "0-3,8".
int count_cpus(const std::string& list) {
  int count = 0;
  const char* at = list.c_str();
  while (*at >= '0' && *at <= '9') {
    char* end = nullptr;
    const long first = std::strtol(at, &end, 10);
    const long last = *end == '-' ? std::strtol(end + 1, &end, 10) : first;
    count += static_cast<int>(last - first + 1);
    at = *end == ',' ? end + 1 : end;
  }
  return std::max(count, 1);
}

void detect_by_system(Caches& found) {
  for (int i = 0;; ++i) {
    const std::string folder =
        "/sys/devices/system/cpu/cpu0/cache/index" + std::to_string(i) + "/";
    const auto read = [&](const char* name) {
      std::string text;
      std::ifstream(folder + name) >> text;
      return text;
    };
    const std::string level = read("level"), type = read("type"), size = read("size");
    if (level.empty()) return;
    Cache* const cache =
        at_level(found, static_cast<unsigned>(std::atoi(level.c_str())));
    if (!cache || type == "Instruction" || size.empty()) continue;
    // The size is in units of 1024 bytes: "512K".
    cache->bytes = Index{std::atol(size.c_str())} << 10;
    cache->ways = std::max(1, std::atoi(read("ways_of_associativity").c_str()));
    cache->cpus = count_cpus(read("shared_cpu_list"));
  }
}
#elif defined(__APPLE__)
void detect_by_system(Caches& found) {
  // The fast cores are performance level 0; Intel Macs have no such levels. The
  // associativity is not reported.
  const auto number = [](std::initializer_list<const char*> names) {
    for (const char* name : names) {
      int64_t value = 0;
      size_t size = sizeof value;
      if (sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value > 0) return value;
    }
    return int64_t{0};
  };
  const auto set = [](Cache& cache, int64_t bytes, int64_t cpus) {
    constexpr int kUsualWays = 8;
    if (bytes > 0) {
      cache = {static_cast<Index>(bytes), kUsualWays,
               static_cast<int>(std::max<int64_t>(cpus, 1))};
    }
  };
  set(found.l1d, number({"hw.perflevel0.l1dcachesize", "hw.l1dcachesize"}), 1);
  set(found.l2, number({"hw.perflevel0.l2cachesize", "hw.l2cachesize"}),
      number({"hw.perflevel0.cpusperl2"}));
  set(found.l3, number({"hw.perflevel0.l3cachesize", "hw.l3cachesize"}),
      number({"hw.perflevel0.cpusperl3"}));
}
#else
void detect_by_system(Caches&) {}
#endif

// Replaces `cache` by the one that the environment variable describes, if it is set.
void replace_from_environment(Cache& cache, const char* variable, bool may_be_none) {
  const char* const text = std::getenv(variable);
  if (!text || !*text) return;
  constexpr long long kLeast = 1 << 10, kMost = 1LL << 40;
  // Reads one number at `at`; it is -1 if there is none.
  const char* at = text;
  const auto number = [&at] {
    char* end = nullptr;
    const long long value = *at >= '0' && *at <= '9' ? std::strtoll(at, &end, 10) : -1;
    if (end) at = end;
    return value <= kMost ? value : -1;
  };
  long long bytes = number(), ways = cache.ways, cpus = cache.cpus;
  if (bytes >= 0 && (*at == 'K' || *at == 'M'))
    bytes *= *at++ == 'K' ? 1 << 10 : 1 << 20;
  if (*at == '/') ++at, ways = number();
  if (*at == '/') ++at, cpus = number();
  constexpr long long kMostParts = 1 << 16;
  const bool valid = !*at && ways >= 1 && ways <= kMostParts && cpus >= 1 &&
                     cpus <= kMostParts && bytes <= kMost &&
                     (bytes >= kLeast || (bytes == 0 && may_be_none));
  if (!valid) {
    throw std::invalid_argument(
        std::string("environment variable ") + variable +
        " must be the size of a cache of at least 1K, such as 48K or 2M" +
        (may_be_none ? ", or 0 for no such cache" : "") +
        ", optionally with the numbers of ways and CPUs as in 48K/12/2, got '" + text +
        "'");
  }
  cache = {static_cast<Index>(bytes), static_cast<int>(ways), static_cast<int>(cpus)};
}

void replace_from_environment(bool& flag, const char* variable) {
  const char* const text = std::getenv(variable);
  if (!text || !*text) return;
  const bool valid = (*text == '0' || *text == '1') && !text[1];
  if (!valid) {
    throw std::invalid_argument(std::string("environment variable ") + variable +
                                " must be 0 or 1, got '" + text + "'");
  }
  flag = *text == '1';
}

Caches all_caches() {
  Caches found;
  detect_by_cpuid(found);
  if (found.l1d.bytes == 0) detect_by_system(found);
  if (found.l1d.bytes == 0) found = kAssumed;
  replace_from_environment(found.l1d, "FASTMLP_L1D", false);
  replace_from_environment(found.l2, "FASTMLP_L2", true);
  replace_from_environment(found.l3, "FASTMLP_L3", true);
  replace_from_environment(found.l3_is_near, "FASTMLP_NEAR_L3");
  if (found.l3.bytes == 0) found.l3_is_near = false;
  return found;
}

}  // namespace

Index l2_of_core(const Caches& caches) {
  if (caches.l2.bytes == 0) return caches.l1d.bytes;
  const Index share = caches.l2.bytes / std::max(1, caches.l2.cpus / caches.l1d.cpus);
  return std::max(share, caches.l1d.bytes);
}

const Caches& caches() {
  static const Caches all = all_caches();
  return all;
}

Index l2_of_core() {
  static const Index bytes = l2_of_core(caches());
  return bytes;
}

}  // namespace fastmlp
