#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs `swift test` with the given arguments. After failures, the output ends with the failed tests and the seeds that reproduce the
# run. SWIFT names another Swift.
set -uo pipefail

# The tests may ask for more threads than the machine has cores. Passive waiting leaves the cores to working threads.
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
