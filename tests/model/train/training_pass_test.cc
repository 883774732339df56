#include "model/train/training_pass.h"
