#pragma once
#include <string_view>

namespace halfstep::train::detail {

/// report.html, with {{RUN}} in the place of the data. The build makes it from that file.
extern const std::string_view report_template;

}  // namespace halfstep::train::detail
