#!/usr/bin/env bash
# House rule 4.1: who may include whom. Each room includes only rooms below it, nothing includes upward, and nobody includes cpu/ or
# cuda/: devices are reached through graph/device.h. `includes.sh ROOT` lists every forbidden include, and every class that
# two headers define, and fails; `includes.sh --self-test` plants such in an empty tree and fails unless each is found, and only those.
set -euo pipefail

allowed() {  # the rooms that files of room $1 may include
  case $1 in
    base) echo base ;;
    graph) echo graph base ;;
    ops) echo ops graph base ;;
    state) echo state graph base ;;
    files) echo files graph base ;;
    text) echo text base ;;
    cpu) echo cpu ops graph base ;;
    cuda) echo cuda ops graph base ;;
    run) echo run state graph base ;;
    models) echo models run state ops files graph base ;;
    tools) echo tools models run state ops files text graph base ;;
  esac
}

alone() {  # LIBRARY FILE: one line for each other file that includes it
  grep -rlE "^[[:space:]]*#[[:space:]]*include[[:space:]]*[<\"](stb/)?$1" src cuda models tools 2>/dev/null | grep -vx "$2" |
    sed "s|\$| includes $1: only $2 may|" || true
}

# A class of one name in two headers is two classes to us and one to the linker, which takes the members of either for both.
twice() {  # one line for each; the instruction sets of cpu/simd are alternatives
  find src models tools -name '*.h' -not -path 'src/cpu/simd/*' -print0 2>/dev/null | sort -z | xargs -0 -r awk '
    FNR == 1 { space = "" }
    /^namespace [a-z_:]+ *\{/ { space = $2 }
    /^(struct|class|enum class|union) [A-Za-z0-9_]+( final)?( :[^;{]*)? ?\{/ {
      name = $1 == "enum" ? $3 : $2
      sub(/[:{].*/, "", name)
      if ((space, name) in first && first[space, name] != FILENAME) print FILENAME " defines " name ", as " first[space, name] " does"
      else first[space, name] = FILENAME
    }'
}

check() {  # ROOT: one line for each forbidden include, library and double name
  cd "$1"
  local room dir file to target
  for dir in src/* cuda models tools; do
    [ -d "$dir" ] || continue
    room=$(basename "$dir")
    [ -n "$(allowed "$room")" ] || { echo "$dir: a room that the rule does not know"; continue; }
    # Quoted includes name files from src/ or from the root; a path without a slash is a neighbour.
    grep -rHoE --include='*.cpp' --include='*.h' --include='*.cu' --include='*.cuh' \
        '^[[:space:]]*#[[:space:]]*include[[:space:]]*"[^"]*"' "$dir" 2>/dev/null |
      while IFS= read -r line; do
        file=${line%%:*}
        target=${line#*\"}
        target=${target%\"}
        case $target in
          ../*) echo "$file includes \"$target\": a path upward"; continue ;;
          */*) to=${target%%/*} ;;
          *) continue ;;
        esac
        case " $(allowed "$room") " in
          *" $to "*) ;;
          *) echo "$file includes \"$target\": $room may not include $to" ;;
        esac
      done || true
  done
  # Libraries that one file alone may know.
  alone xxhash src/base/hash.h
  alone stb_image_write src/files/image.cpp
  twice
}

self_test() {
  local tree found
  tree=$(mktemp -d)
  trap "rm -rf '$tree'" EXIT
  mkdir -p "$tree"/src/{base,graph,ops,state,files,text,cpu/simd,run} "$tree"/{cuda,models/mixers,tools/lib}
  plant() { printf '%s\n' "$2" >> "$tree/$1"; }
  plant src/base/hash.h '#include <xxhash.h>'
  plant src/graph/graph.h '#include "base/error.h"'
  plant src/cpu/simd/table.h '#include "cpu/simd/vec.h"'
  plant models/mixers/attention.cpp '#include "ops/attend.h"'
  plant models/mixers/attention.cpp '#include "models/mixers/mixer.h"'
  plant tools/generate.cpp '#include "text/tokenizer.h"'
  plant src/ops/norm.h '// #include "cpu/device.h" in a comment is not one'
  found=$(check "$tree")
  [ -z "$found" ] || { echo "includes.sh: complains about a clean tree:"; echo "$found"; return 1; }
  local sins=0 file target
  while read -r file target; do
    plant "$file" "  #  include \"$target\""
    sins=$((sins + 1))
    found=$(check "$tree" | wc -l)
    [ "$found" = "$sins" ] || { echo "includes.sh: $file including \"$target\" was not found"; return 1; }
  done <<'SINS'
src/base/file.cpp graph/tensor.h
src/graph/graph.h ops/norm.h
src/graph/device.cpp cpu/table.h
src/ops/norm.h cpu/simd/simd.h
src/ops/norm.h state/step.h
src/state/cache.h ops/rows.h
src/files/weights.cpp models/zoo.h
src/text/bpe.cpp graph/tensor.h
src/cpu/device.cpp run/engine.h
src/run/engine.cpp ops/norm.h
src/run/engine.cpp models/zoo.h
models/decoder.cpp cpu/table.h
models/mixers/attention.cpp text/tokenizer.h
tools/generate.cpp cpu/simd/simd.h
tools/lib/options.h cuda/device.h
cuda/norm.cu cpu/table.h
src/run/engine.h ../graph/graph.h
SINS
  plant src/graph/print.cpp '#include <xxhash.h>'
  plant tools/videogen.cpp '#include <stb/stb_image_write.h>'
  mkdir "$tree/src/utils"
  for file in src/text/words.h src/base/error.h src/cpu/simd/vec.h; do plant "$file" $'namespace folio {\nclass Words final : public Base {'; done
  plant tools/lib/words.h $'namespace folio::other {\nclass Words {'
  [ "$(check "$tree" | wc -l)" = $((sins + 4)) ] || { echo "includes.sh: a library, a room or a double name was not found"; return 1; }
  echo "includes.sh: found all $((sins + 4)) planted"
}

if [ "${1:-}" = --self-test ]; then
  self_test
else
  found=$(check "${1:-$(dirname "$0")/..}")
  [ -z "$found" ] || { echo "$found"; exit 1; }
fi
