// How the emulator names places and gives up.
//
// Places are return addresses; only when something is to be reported are they looked up, by addr2line of
// binutils (which comes with every compiler), in what was compiled with -g1.
#pragma once

#include <string>

namespace clamor::simt {

// "kernels/cuda/rmsnorm.cu:57": the innermost place that is not in a wrapper of gpu.h or of the emulator's
// own headers. Where nothing is known of lines, a symbol or a number, without a colon.
std::string PlaceOf(const void* return_address);

// "RmsNormKernel", of a function's address.
std::string NameOf(const void* function);

// Prints "simt: <what>" and ends the process with status 86. What the emulator finds is a defect of the
// program, so there is no way on; tests expect the death of a child process.
[[noreturn]] void Fail(const std::string& what);

}  // namespace clamor::simt
