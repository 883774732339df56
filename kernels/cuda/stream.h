// A stream of the device, as CUDA's own headers declare it: operators take one and queue their work on it, so
// that headers of this folder need no CUDA.
#pragma once

struct CUstream_st;

namespace clamor::kernels::cuda {

using Stream = CUstream_st*;

}  // namespace clamor::kernels::cuda
