# cmake -DSOURCE=page -DOUTPUT=page_files.cc -P embed.cmake: the page's files as the strings of page_files.h.
file(READ ${SOURCE}/page.html html)
file(READ ${SOURCE}/page.css css)
file(READ ${SOURCE}/trees.js trees)
file(READ ${SOURCE}/chat.js chat)
file(WRITE ${OUTPUT} "#include \"services/edge/page_files.h\"

namespace clamor::edge {

const char kPageHtml[] = R\"page(${html})page\";
const char kPageCss[] = R\"page(${css})page\";
const char kPageScript[] = R\"page(${trees}
${chat})page\";

}  // namespace clamor::edge
")
