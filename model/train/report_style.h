// The look of a report, as text to put between <style> and <script> tags. Light and dark by the reader's
// preference; the palette's six colours (.c0 to .c5) are told apart by colour-blind readers and stand out at
// 3:1 or more against the background. The script only adds values under the pointer.
#pragma once

namespace clamor {

extern const char kReportStyle[];
extern const char kReportScript[];

}  // namespace clamor
