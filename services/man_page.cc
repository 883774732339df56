#include "services/man_page.h"

#include <algorithm>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

#ifndef CLAMOR_VERSION
#error "services/CMakeLists.txt defines it"
#endif

namespace clamor {
namespace {

// `text` as roff shows it: no character of it is a command, and a hyphen is one that can be searched for and
// copied.
std::string Escaped(absl::string_view text) {
  std::string escaped;
  bool line_begins = true;
  for (const char c : text) {
    if (line_begins && (c == '.' || c == '\'')) escaped += "\\&";
    line_begins = c == '\n';
    if (c == '\\') {
      escaped += "\\e";
    } else if (c == '-') {
      escaped += "\\-";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string Bold(absl::string_view text) { return absl::StrCat("\\fB", Escaped(text), "\\fR"); }

bool IsVerb(const CLI::App& app) { return app.get_parent() != nullptr; }

// As it is called: "clamor chat".
std::string CallOf(const CLI::App& app) {
  return IsVerb(app) ? absl::StrCat(CallOf(*app.get_parent()), " ", app.get_name()) : app.get_name();
}

std::string PageOf(const CLI::App& app) { return absl::StrJoin(absl::StrSplit(CallOf(app), ' '), "-"); }

std::string NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back(Bold("-" + name));
  for (const std::string& name : option.get_lnames()) names.push_back(Bold("--" + name));
  return absl::StrJoin(names, ", ");
}

struct Value {
  std::string kind;   // "INT"
  std::string limit;  // what it must be: "in [0 - 20]" or "text or json"; empty: anything of that kind
};

// From CLI11's words: "INT:INT in [0 - 20]" or "TEXT:{text,json}".
Value ValueOf(const CLI::Option& option) {
  const std::vector<std::string> parts = absl::StrSplit(option.get_type_name(), absl::MaxSplits(':', 1));
  if (parts.size() < 2) return {parts[0], ""};
  absl::string_view limit = parts[1];
  if (absl::ConsumePrefix(&limit, "{") && absl::ConsumeSuffix(&limit, "}")) {
    return {parts[0], absl::StrJoin(absl::StrSplit(limit, ','), " or ")};
  }
  limit = parts[1];
  absl::ConsumePrefix(&limit, parts[0] + " ");
  return {parts[0], std::string(limit)};
}

void AppendOption(const CLI::Option& option, std::string& page) {
  const auto [kind, limit] = ValueOf(option);
  const bool takes_value = option.get_items_expected_max() > 0;
  const std::string name = option.get_positional() ? Bold(option.get_name()) : NamesOf(option);
  absl::StrAppend(&page, ".TP\n", name);
  if (takes_value && !option.get_positional()) absl::StrAppend(&page, " \\fI", Escaped(kind), "\\fR");
  const std::string description = option.get_description();
  absl::StrAppend(&page, "\n", Escaped(description), absl::EndsWith(description, ".") ? "\n" : ".\n");
  if (option.get_required()) absl::StrAppend(&page, "Required.\n");
  if (takes_value && !limit.empty()) absl::StrAppend(&page, "Must be ", Escaped(limit), ".\n");
  if (takes_value && !option.get_default_str().empty()) {
    absl::StrAppend(&page, "Default: ", Escaped(option.get_default_str()), ".\n");
  }
  if (!option.get_envname().empty()) absl::StrAppend(&page, "Also from ", Bold(option.get_envname()), ".\n");
}

void AppendOptions(const CLI::App& app, std::string& page) {
  std::vector<std::string> groups;
  for (const CLI::Option* option : app.get_options()) {
    const std::string& group = option->get_group();
    if (!group.empty() && std::find(groups.begin(), groups.end(), group) == groups.end())
      groups.push_back(group);
  }
  absl::StrAppend(&page, ".SH OPTIONS\n");
  for (const std::string& group : groups) {
    if (groups.size() > 1) absl::StrAppend(&page, ".SS ", Escaped(group), "\n");
    for (const CLI::Option* option : app.get_options()) {
      if (option->get_group() == group) AppendOption(*option, page);
    }
  }
}

std::vector<const CLI::App*> VerbsOf(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* verb) { return !verb->get_name().empty(); });
}

}  // namespace

std::string ManPage(const CLI::App& app) {
  const std::string page_name = PageOf(app);
  const std::vector<const CLI::App*> verbs = VerbsOf(app);
  std::string page = absl::StrCat(".TH ", absl::AsciiStrToUpper(Escaped(page_name)), " 1 \"\" \"clamor ",
                                  CLAMOR_VERSION, "\" \"Clamor\"\n.SH NAME\n", Escaped(page_name), " \\- ",
                                  Escaped(app.get_description()), "\n.SH SYNOPSIS\n", Bold(CallOf(app)));
  absl::StrAppend(&page, verbs.empty() ? "" : " \\fIVERB\\fR", " [\\fIOPTIONS\\fR]");
  for (const CLI::Option* option : app.get_options()) {
    if (option->get_positional()) absl::StrAppend(&page, " [\\fI", Escaped(option->get_name()), "\\fR...]");
  }
  page += "\n";
  if (!verbs.empty()) {
    absl::StrAppend(&page, ".SH VERBS\n");
    for (const CLI::App* verb : verbs) {
      absl::StrAppend(&page, ".TP\n", Bold(verb->get_name()), "\n", Escaped(verb->get_description()), ": ",
                      Bold(PageOf(*verb)), "(1).\n");
    }
  }
  AppendOptions(app, page);
  absl::StrAppend(
      &page,
      ".SH EXIT STATUS\n0: done; 1: failed; 2: wrong usage. An error is one line on standard error.\n");
  if (IsVerb(app)) absl::StrAppend(&page, ".SH SEE ALSO\n", Bold(PageOf(*app.get_parent())), "(1)\n");
  return page;
}

}  // namespace clamor
