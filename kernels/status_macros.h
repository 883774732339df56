// The two macros by which an absl::Status travels up; the only macros of the project.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns the status of `expr` from the enclosing function unless it is OK.
#define CLAMOR_RETURN_IF_ERROR(expr)                            \
  do {                                                          \
    if (absl::Status status_ = (expr); !status_.ok()) {         \
      return status_;                                           \
    }                                                           \
  } while (false)

// Evaluates `expr` (a StatusOr); on success assigns its value to `lhs` (which may declare a variable), else returns.
#define CLAMOR_ASSIGN_OR_RETURN(lhs, expr) \
  CLAMOR_ASSIGN_OR_RETURN_IMPL_(CLAMOR_CONCAT_(status_or_, __LINE__), lhs, expr)
#define CLAMOR_ASSIGN_OR_RETURN_IMPL_(statusor, lhs, expr) \
  auto statusor = (expr);                                  \
  if (!statusor.ok()) return std::move(statusor).status(); \
  lhs = *std::move(statusor)
#define CLAMOR_CONCAT_(a, b) CLAMOR_CONCAT_IMPL_(a, b)
#define CLAMOR_CONCAT_IMPL_(a, b) a##b
