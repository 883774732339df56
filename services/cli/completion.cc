// `clamor completion`: a script that the shell reads.
#include "services/cli/completion.h"

#include <cstdio>
#include <memory>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "services/cli/command.h"

namespace clamor::cli {
namespace {

// zsh reads bash's scripts if it is told to.
constexpr char kZshPrelude[] = "autoload -U +X compinit bashcompinit && compinit && bashcompinit\n";

constexpr char kBegin[] = R"(# Completion of clamor.
_clamor() {
  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} verb=${COMP_WORDS[1]} words=
  # --flag=value is three words.
  [[ $word == = ]] && word=
  [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD - 2]}
  [[ $word != -* ]] && case $verb:$before in
)";

constexpr char kMiddle[] = R"(  esac
  if [[ -z $words && $COMP_CWORD == 1 ]]; then
    words="%s"
  elif [[ -z $words && $word == -* ]]; then
    case $verb in
)";

constexpr char kEnd[] = R"(    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _clamor clamor
)";

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back("-" + name);
  for (const std::string& name : option.get_lnames()) names.push_back("--" + name);
  return names;
}

// "text json" of "TEXT:{text,json}", as CLI11 describes what an option may be; empty if that is not a list.
std::string ChoicesOf(const CLI::Option& option) {
  const std::string kind = option.get_type_name();
  const size_t begin = kind.find('{'), end = kind.find('}');
  if (begin == std::string::npos || end == std::string::npos) return "";
  return absl::StrJoin(absl::StrSplit(kind.substr(begin + 1, end - begin - 1), ','), " ");
}

struct Flags {
  std::string shell;
};

}  // namespace

std::string BashCompletion(const CLI::App& root) {
  std::vector<std::string> verbs;
  std::string choices, flags;
  for (const CLI::App* verb : root.get_subcommands([](const CLI::App*) { return true; })) {
    verbs.push_back(verb->get_name());
    std::vector<std::string> names;
    for (const CLI::Option* option : verb->get_options()) {
      const std::vector<std::string> of_option = NamesOf(*option);
      names.insert(names.end(), of_option.begin(), of_option.end());
      const std::string values = ChoicesOf(*option);
      if (values.empty()) continue;
      // A word without a flag before it comes straight after the verb.
      const std::string before = option->get_positional() ? verb->get_name() : names.back();
      absl::StrAppend(&choices, "    ", verb->get_name(), ":", before, ") words=\"", values, "\" ;;\n");
    }
    absl::StrAppend(&flags, "      ", verb->get_name(), ") words=\"", absl::StrJoin(names, " "), "\" ;;\n");
  }
  const std::vector<std::string> middle = absl::StrSplit(kMiddle, "%s");
  return absl::StrCat(kBegin, choices, middle[0], absl::StrJoin(verbs, " "), " --help --version", middle[1],
                      flags, kEnd);
}

void AddCompletion(CLI::App& app, Run& run) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("completion", "What a shell needs to complete commands, to be sourced");
  verb->add_option("shell", flags->shell, "Which one")->required()->check(CLI::IsMember({"bash", "zsh"}));
  verb->callback([flags, &app, &run] {
    run = [flags, &app] {
      if (flags->shell == "zsh") std::fputs(kZshPrelude, stdout);
      std::fputs(BashCompletion(app).c_str(), stdout);
      return absl::OkStatus();
    };
  });
}

}  // namespace clamor::cli
