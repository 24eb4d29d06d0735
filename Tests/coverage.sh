#!/usr/bin/env bash
# Line coverage of the Swift tests: of the C core, and of the Swift layer with the C interface.
#
#     Tests/coverage.sh [--lines]
#
# Prints a table, and with --lines every line that no test reaches. SWIFT names another Swift.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
swift=${SWIFT:-swift}
tools=$(dirname "$(readlink -f "$(command -v "$swift")")")
build=$root/.build-coverage

"$swift" build --package-path "$root" --scratch-path "$build" --build-tests --enable-code-coverage >"$build.log" 2>&1 || { cat "$build.log"; exit 1; }
"$swift" test --package-path "$root" --scratch-path "$build" --skip-build --enable-code-coverage >"$build.log" 2>&1 ||
    { grep -E '✘|rror' "$build.log"; exit 1; }
rm "$build.log"
program=$(echo "$build"/debug/*.xctest)
profile=$build/debug/codecov/default.profdata

table() {
    echo "$1"
    "$tools/llvm-cov" report "$program" -instr-profile="$profile" "${@:2}" |
        awk 'NF >= 10 && $1 != "Filename" { name = $1; sub(/.*Sources\//, "", name); printf "  %-62s %6d lines %5d missed %8s\n", name, $8, $9, $10 }'
}
table "C core" "$root/Sources/CKernels"
table "Swift layer and C interface" "$root/Sources/DiffusionScheduling" "$root/Sources/DiffusionSchedulingC" "$root/Sources/CDiffusionScheduling"

if [ "${1:-}" = --lines ]; then
    "$tools/llvm-cov" show "$program" -instr-profile="$profile" -show-line-counts-or-regions=false -show-instantiations=false \
        "$root/Sources" | awk -F'|' '/^\/.*:$/ { name = $0; sub(/.*Sources\//, "", name) } $2 ~ /^ *0$/ { print name $1 "|" $3 }'
fi
