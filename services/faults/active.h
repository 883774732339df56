// The faults that are set, and the passes of the places that they are at. Not for servers: they use the hooks
// of faults.h and disk.h.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "clamor/v1/faults.pb.h"

namespace clamor::faults {

// In place of those before, whose hits are returned.
v1::SetFaultsResponse Set(v1::SetFaultsRequest faults);
// Of a SetFaultsRequest's text; what is wrong with it, or nothing.
std::string SetText(const std::string& text);

// A pass of `place`: the first fault that it meets, counted as a hit.
std::optional<v1::Fault> Pass(std::string_view place);
// Kills, hangs until other faults are set (ten minutes at most), or sleeps; nothing for other kinds.
void Suffer(const v1::Fault& fault);

}  // namespace clamor::faults
