#include "halfstep/train/report/report_page.h"

#include "halfstep/train/report/report_template.h"

namespace halfstep::train {

std::string report_page(const nlohmann::ordered_json& run) {
  constexpr std::string_view place = "{{RUN}}";
  const auto page = detail::report_template;
  const auto at = page.find(place);
  const auto data = run.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string result(page.substr(0, at));
  // Within a text of JSON alone: a config with "</script>" must not end the data.
  for (const char c : data)
    if (c == '<')
      result += "\\u003c";
    else
      result += c;
  return result.append(page.substr(at + place.size()));
}

}  // namespace halfstep::train
