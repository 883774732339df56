// What libclamor_cuda.so shows of training to the outside.
#include "model/train/cuda/device_training.h"

extern "C" __attribute__((visibility("default"))) void clamor_cuda_train(clamor::CudaTrain* request) {
  request->result = clamor::DeviceTraining::Create(request->config, request->parameters, request->limits);
}
