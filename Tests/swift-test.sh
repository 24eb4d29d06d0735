#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs `swift test` with the given arguments. If tests fail, repeats at the end which, and the seeds that repeat the run: both are far
# from the end of what a run prints. SWIFT names another Swift.
set -uo pipefail

# The tests ask for more threads than there may be cores: those that wait leave the core to those that work.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
"${SWIFT:-swift}" test --package-path "$(dirname "${BASH_SOURCE[0]}")/.." "$@" 2>&1 | tee "$log"
status=$?
if [ "$status" -ne 0 ]; then
    echo "---- What failed:"
    grep -aE 'recorded an issue|(rror|ERROR|WARNING|SUMMARY): |_SEED=|Test run with .* failed' "$log" | head -n 50
fi
exit "$status"
