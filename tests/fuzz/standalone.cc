// Where there is no libFuzzer: every file of the corpus, then as many seeded mutations of them as asked for.
//
//   NAME_replay CORPUS [MUTATIONS]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void Try(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

std::string Read(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// One to four small changes: bytes, bits, parts left out, doubled or taken from another file.
std::string Mutated(std::string bytes, const std::vector<std::string>& corpus, std::mt19937& random) {
  for (auto n = 1 + random() % 4; n > 0 && !bytes.empty(); --n) {
    const size_t at = random() % bytes.size(), length = 1 + random() % 16;
    const std::string& other = corpus[random() % corpus.size()];
    switch (random() % 6) {
      case 0:
        bytes[at] = static_cast<char>(random());
        break;
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ 1 << random() % 8);
        break;
      case 2:
        bytes.erase(at, length);
        break;
      case 3:
        bytes.insert(at, bytes.substr(random() % bytes.size(), length));
        break;
      case 4:
        if (!other.empty()) bytes.insert(at, other.substr(random() % other.size(), length));
        break;
      case 5:
        bytes.replace(at, std::min<size_t>(8, bytes.size() - at), 8,
                      static_cast<char>(random() % 2 ? 0xFF : 0));
        break;
    }
  }
  return bytes;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) return std::fprintf(stderr, "usage: %s CORPUS [MUTATIONS]\n", argv[0]), 2;
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) paths.push_back(entry.path());
  std::ranges::sort(paths);
  std::vector<std::string> corpus;
  for (const auto& path : paths) Try(corpus.emplace_back(Read(path)));
  if (corpus.empty()) return std::fprintf(stderr, "%s: holds no files\n", argv[1]), 1;

  const int mutations = argc > 2 ? std::atoi(argv[2]) : 0;
  std::mt19937 random(1);
  for (int i = 0; i < mutations; ++i) Try(Mutated(corpus[random() % corpus.size()], corpus, random));
  std::printf("%zu files, %d mutations\n", corpus.size(), mutations);
  return 0;
}
