#include "threading/stop.h"

namespace fastmlp {
namespace {

thread_local const std::atomic<bool>* flag_of_thread = nullptr;

}  // namespace

const std::atomic<bool>* detail::stop_flag() { return flag_of_thread; }

StoppedBy::StoppedBy(const std::atomic<bool>* flag) : before_(flag_of_thread) {
  flag_of_thread = flag;
}
StoppedBy::~StoppedBy() { flag_of_thread = before_; }

}  // namespace fastmlp
