#!/usr/bin/env bash
# no_weak_symbols.sh NM OBJECT...: fails if one of the objects compiled per instruction set holds a weak symbol. The linker keeps one of
# several weak symbols of a name for everybody; were it the one compiled for AVX-512, older processors would crash (numpy #25274).
set -euo pipefail
nm=$1
shift
[ $# -gt 0 ] || { echo "no_weak_symbols: no objects given" >&2; exit 1; }
bad=0
for object in "$@"; do
  weak=$("$nm" -C "$object" | awk '$2 ~ /^[VvWwu]$/ || $1 ~ /^[VvWwu]$/') || true
  if [ -n "$weak" ]; then
    printf '%s has weak symbols:\n%s\n' "$object" "$weak" >&2
    bad=1
  fi
done
exit $bad
