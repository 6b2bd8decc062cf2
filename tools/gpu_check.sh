#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# One run on a GPU: is everything right there, and how fast is it? Parts in this order, each under a timeout and with a log of its own:
# the machine's facts; a build for this card; conform (does the simulator mean what the chip does?); every op case against the reference;
# whole models against the CPU; compute-sanitizer; then timings, ours and PyTorch's on the same card. A part that fails does not stop the
# next; on a card of compute capability 9.0 the ops run in both tiers. Ends within 8 minutes. Exit code 1 if a part failed.
# Wants nvidia-smi, nvcc, CMake and python3; compute-sanitizer and PyTorch (FOLIO_PYTHON's, else python3's) where they are.
set -u

usage() {
  cat <<'EOF'
usage: tools/gpu_check.sh [options] [FOLDER]

Checks and measures Folio on an NVIDIA card. Writes report.md, report.json and a log of each part to FOLDER (default: gpu_report).
Paths are relative to the repository.

  --card N       which card, numbered as nvidia-smi does (default: 0)
  --build DIR    where to build (default: build-gpu)
  --jobs N       jobs of the build (default: all processors)
  --seconds N    end within N seconds (default: 460)
  --dry-run      only say which parts there are, with their commands
EOF
}

die() {
  echo "error: gpu_check: $1" >&2
  exit 1
}

card=0 build=build-gpu out=gpu_report total=460 dry='' jobs=$(nproc)
called="tools/gpu_check.sh $*"
while [ $# -gt 0 ]; do
  case $1 in
    --card | --build | --jobs | --seconds)
      [ $# -ge 2 ] || die "$1 wants a value"
      case $1 in --card) card=$2 ;; --build) build=$2 ;; --jobs) jobs=$2 ;; --seconds) total=$2 ;; esac
      shift ;;
    --dry-run) dry=1 ;;
    -h | --help) usage; exit 0 ;;
    -*) die "no option '$1'; see --help" ;;
    *) out=$1 ;;
  esac
  shift
done
for number in "$card" "$jobs" "$total"; do
  case $number in '' | *[!0-9]*) die "'$number' is no number" ;; esac
done

cd "$(dirname "$0")/.." || die "cannot enter the repository"
bin=$build/bin
python=${FOLIO_PYTHON:-python3}
# CUDA numbers cards as nvidia-smi does, and a device that a program asks for is this card.
export CUDA_DEVICE_ORDER=PCI_BUS_ID
device=cuda:$card
failures=0

record() {  # NAME STATUS SECONDS LIMIT REASON COMMAND
  local reason=${5//[$'\t\r\n']/ } command=${6//[$'\t\r\n']/ }
  printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "${reason:0:300}" "$command" >>"$out/parts.tsv"
  printf '%-20s %-8s %4s s  %s\n' "$1" "$2" "$3" "${reason:0:160}"
  case $2 in failed | "not run") failures=$((failures + 1)) ;; esac
}

# What a log says of a failure: the first error of a compiler, else the last line.
reason_in() {
  grep -m 1 -E '(error|Error)( [A-Z0-9]+)?: ' "$1" || grep -v '^[[:space:]]*$' "$1" | tail -n 1
}

# part NAME LIMIT PROGRAM OUTPUT EXCUSE COMMAND...: runs a part. PROGRAM must be there. The command's standard output goes to
# FOLDER/OUTPUT unless that is -, all else to FOLDER/NAME.log. With an EXCUSE it is skipped, not failed, if it ends in 77 or a line of its
# log matches; - is none.
part() {
  local name=$1 limit=$2 program=$3 output=$4 excuse=$5
  shift 5
  if [ -n "$dry" ]; then
    printf '%-20s at most %3s s  %s\n' "$name" "$limit" "$*"
    return
  fi
  local log=$out/$name.log left=$((total - SECONDS)) start=$SECONDS code why
  if ! command -v "$program" >/dev/null; then record "$name" "not run" 0 "$limit" "$program is not there" "$*"; return; fi
  if [ "$left" -lt 5 ]; then record "$name" "not run" 0 "$limit" "the $total s of this run are over" "$*"; return; fi
  [ "$left" -lt "$limit" ] && limit=$left
  local to=$log
  [ "$output" = - ] || to=$out/$output
  : >"$log"
  timeout -k 5 "$limit" "$@" >>"$to" 2>>"$log" </dev/null
  code=$?
  why=$(reason_in "$log")
  if [ $code -eq 0 ]; then record "$name" ok $((SECONDS - start)) "$limit" "" "$*"; return; fi
  [ "$output" = - ] || rm -f "${out:?}/$output"   # half of it, perhaps
  if [ $code -eq 77 ] && [ "$excuse" != - ]; then record "$name" skipped $((SECONDS - start)) "$limit" "$why" "$*"; return; fi
  if [ "$excuse" != - ] && grep -qE "$excuse" "$log"; then
    record "$name" skipped $((SECONDS - start)) "$limit" "$(grep -E "$excuse" "$log" | head -n 1)" "$*"
    return
  fi
  [ $code -eq 124 ] || [ $code -eq 137 ] && why="did not end within $limit s; last it said: $why"
  record "$name" failed $((SECONDS - start)) "$limit" "exit code $code: $why" "$*"
}

skip() {  # NAME REASON
  if [ -n "$dry" ]; then printf '%-20s skipped: %s\n' "$1" "$2"; else record "$1" skipped 0 0 "$2" ""; fi
}

fact() { printf '%s\t%s\n' "$1" "${2//[$'\t\r\n']/ }" >>"$out/facts.tsv"; }

ask_card() {
  local said
  said=$(nvidia-smi -i "$card" --query-gpu="$1" --format=csv,noheader,nounits 2>/dev/null) && echo "${said%%$'\n'*}"
}

write_facts() {
  local commit
  commit=$(git rev-parse HEAD 2>/dev/null) || commit=unknown
  [ -z "$(git status --porcelain -uno 2>/dev/null)" ] || commit="$commit, with changes"
  fact commit "$commit"
  fact date "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
  fact command "$called"
  fact card "$card_name"
  fact "compute capability" "$capability"
  fact "memory of the card" "$memory MiB"
  fact driver "$(ask_card driver_version)"
  fact nvcc "$($nvcc --version 2>/dev/null | grep -oE 'release [0-9.]+' | head -n 1)"
  fact processors "$(nproc)"
  fact system "$(uname -srm)"
}

# --- What there is.

if [ -n "$dry" ]; then
  nvcc=nvcc card_name="a card" capability=9.0 memory=999999
else
  command -v nvidia-smi >/dev/null || die "no NVIDIA card here: there is no nvidia-smi, so nothing was run"
  card_name=$(ask_card name)
  capability=$(ask_card compute_cap)
  memory=$(ask_card memory.total)
  case $memory in '' | *[!0-9]*) memory=0 ;; esac
  [ -n "$card_name" ] || die "no NVIDIA card here: nvidia-smi shows no card $card, so nothing was run"
  case $capability in [0-9]*.[0-9]*) ;; *) die "nvidia-smi does not say the compute capability of card $card, so nothing was run" ;; esac
  nvcc=$(command -v "${CUDACXX:-nvcc}" || command -v "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc") ||
    die "no nvcc, neither on the PATH nor in ${CUDA_HOME:-/usr/local/cuda}/bin: install the CUDA Toolkit; nothing was run"
  command -v python3 >/dev/null || die "no python3, which writes the report; nothing was run"
  mkdir -p "$out" || die "cannot make the folder $out"
  rm -f "$out"/*.log "$out"/*.json "$out"/*.tsv "$out"/report.md
  write_facts
fi
tiers=portable architecture=${capability//./}-real
[ "$capability" = 9.0 ] && tiers="portable hopper" architecture=90a-real

# --- Is it right?

part machine 15 nvidia-smi - - nvidia-smi
part configure 40 cmake - - env CUDACXX="$nvcc" cmake -S . -B "$build" -DFOLIO_CUDA=ON \
  -DCMAKE_CUDA_ARCHITECTURES="$architecture" -DCMAKE_CUDA_FLAGS=--split-compile=0
part build 240 cmake - - cmake --build "$build" -j "$jobs" --target generate bench op_check conform
part conform 30 "$bin/conform" - - "$bin/conform"
for tier in $tiers; do
  part "op_check_$tier" 60 "$bin/op_check" - - \
    env FOLIO_CUDA_TIER="$tier" "$bin/op_check" --device "$device" --json "$out/op_check_$tier.json"
done
weights=$(echo models/weights/*.folio)
# shellcheck disable=SC2086  # one word for each file
part models 40 "$bin/generate" - - \
  python3 tools/gpu_models.py --generate "$bin/generate" --device "$device" --json "$out/models.json" $weights
for tool in memcheck racecheck; do
  if [ -n "$dry" ] || command -v compute-sanitizer >/dev/null; then
    part "$tool" 45 "$bin/op_check" - 'Device not supported' \
      compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/op_check" --device "$device" --most 200000 --seconds 35
  else
    skip "$tool" "there is no compute-sanitizer"
  fi
done

# --- How fast is it?

for tier in $tiers; do
  part "bench_ops_$tier" 60 "$bin/bench" "ops_$tier.json" - env FOLIO_CUDA_TIER="$tier" "$bin/bench" ops --device "$device" --json
done
for shape in gpt2 1b 8b; do
  types="bf16 q8_0"
  [ $shape = gpt2 ] && types="f32 bf16"
  room=$(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo)
  if [ $shape = 8b ] && { [ "$memory" -lt 30000 ] || { [ -z "$dry" ] && [ "$room" -lt 20000 ]; }; }; then
    skip bench_8b "its weights and cache want 30 GB of the card's memory and 20 GB of the machine's; there are $memory and $room MiB"
    continue
  fi
  for type in $types; do
    part "bench_${shape}_$type" 40 "$bin/bench" "bench_${shape}_$type.json" - \
      "$bin/bench" model --device "$device" --shape "$shape" --type "$type" --batch 8 --json
  done
done
part torch_cases 10 "$bin/bench" cases.json - "$bin/bench" ops --list --json
part torch 120 "$python" - 'no PyTorch here' \
  "$python" tools/gpu_torch.py --device "$device" --cases "$out/cases.json" --json "$out/torch.json" --seconds 75

[ -n "$dry" ] && exit 0
python3 tools/gpu_report.py "$out" || failures=$((failures + 1))
echo "$SECONDS s; $failures parts failed; report: $out/report.md and report.json"
[ "$failures" -eq 0 ]
