#include "halfstep/train/report/report_page.h"

#include <string_view>

#include "report_template.h"

namespace halfstep::train {

namespace {

constexpr std::string_view kPage = detail::report_template;
constexpr std::string_view kPlace = "{{RUN}}";
constexpr auto kAt = kPage.find(kPlace);
static_assert(kAt != kPage.npos && kPage.find(kPlace, kAt + 1) == kPage.npos);

}  // namespace

std::string report_page(const nlohmann::ordered_json& run) {
  const auto data = run.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string page(kPage.substr(0, kAt));
  // Within a text of JSON alone: a config with "</script>" must not end the data.
  for (const char c : data)
    if (c == '<')
      page += "\\u003c";
    else
      page += c;
  return page.append(kPage.substr(kAt + kPlace.size()));
}

}  // namespace halfstep::train
