#!/bin/sh
# Runs a compile command of nvcc and fails it, too, for what ptxas only remarks about kernels of the Hopper tier: wgmma that wait for each
# other (C7510 to C7516), waits and arrivals put in between (C7517 to C7519), a setmaxnreg that is ignored (C7508).
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT
"$@" 2>"$log"
code=$?
cat "$log" >&2
if [ $code = 0 ] && grep -qE '\(C75(08|1[0-9])\)|Potential Performance Loss' "$log"; then
  echo "remarks.sh: what ptxas remarks above is an error here" >&2
  exit 1
fi
exit $code
