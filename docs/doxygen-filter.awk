# What Doxygen reads of a header or a page (docs/Doxyfile). Line numbers stay as they are.
#
# Headers: a comment stands for all declarations below it up to the next blank line, comment or access label; Doxygen is told so by a group.
# Pages: headings get the anchors that links name, links to a page's heading go to its anchor, and links to other files lead to the clone.
{ line[NR] = $0 }

END {
  if (FILENAME ~ /\.md$/) filter_page()
  else filter_header()
}

function filter_header(    i, first, last, declarations, depth, plain, text) {
  for (i = 1; i <= NR; i++) {
    if (line[i] !~ /^ *\/\/\// || line[i - 1] ~ /^ *\/\/\//) continue
    first = i
    while (line[i] ~ /^ *\/\//) i++
    # What stands above a namespace, or alone, is about the file.
    if (line[i] ~ /^(namespace halfstep.*|#include .*)?$/) sub(/\/\/\//, "/// @about", line[first])
    declarations = depth = last = 0
    plain = 1
    for (; i <= NR; i++) {
      if (depth == 0 && line[i] ~ /^ *($|\/\/\/|}|(public|protected|private):)/) break
      text = line[i]
      sub(/ *\/\/.*/, "", text)
      gsub(/"([^"\\]|\\.)*"/, "", text)
      # A group must not begin outside of a class and hold the groups of its members.
      if (depth == 0 && text ~ /^ *(#|(template.*> *)?(class|struct|union|enum|namespace)( |$)|TORCH_)/) {
        plain = 0
        break
      }
      depth += gsub(/[{(]/, "", text) - gsub(/[})]/, "", text)
      if (depth == 0 && line[i] ~ /[;}]( *\/\/.*)?$/) {
        declarations++
        last = i
      }
    }
    if (plain && declarations > 1) {
      sub(/\/\/\//, "/** @{ */ &", line[first])
      sub(/$/, " /** @} */", line[last])
    }
    if (plain) i--
  }
  for (i = 1; i <= NR; i++) print line[i]
}

# As GitHub makes it of a heading, after the page's name: anchors of all pages are one set to Doxygen.
function anchor(page, heading) {
  heading = tolower(heading)
  gsub(/[^a-z0-9_ -]/, "", heading)
  gsub(/ /, "-", heading)
  return page "-" heading
}

function name_of(path) {
  sub(/.*\//, "", path)
  sub(/\.md$/, "", path)
  return tolower(path)
}

function target_of(target, folder,    parts) {
  if (target ~ /^https?:/) return target
  if (target ~ /^#/) return "#" name_of(FILENAME) "-" substr(target, 2)
  if (target ~ /\.md#/) {
    split(target, parts, "#")
    return "#" name_of(parts[1]) "-" parts[2]
  }
  if (target ~ /\.md$/) return target
  return "../../" (target ~ /^\.\.\// ? substr(target, 4) : folder target)
}

function filter_page(    i, code, folder, head, rest, target) {
  folder = FILENAME ~ /(^|\/)docs\/[^\/]*$/ ? "docs/" : ""
  for (i = 1; i <= NR; i++) {
    if (line[i] ~ /^```/) code = !code
    else if (!code && line[i] ~ /^#/) {
      head = line[i]
      sub(/^#+ */, "", head)
      line[i] = line[i] " {#" (line[i] ~ /^# / ? "page-" name_of(FILENAME) : anchor(name_of(FILENAME), head)) "}"
    } else if (!code) {
      rest = line[i]
      head = ""
      while (match(rest, /\]\([^) ]*\)/)) {
        target = substr(rest, RSTART + 2, RLENGTH - 3)
        head = head substr(rest, 1, RSTART + 1) target_of(target, folder) ")"
        rest = substr(rest, RSTART + RLENGTH)
      }
      line[i] = head rest
    }
    print line[i]
  }
}
