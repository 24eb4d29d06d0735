#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
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

flags=(--package-path "$root" --scratch-path "$build" --enable-code-coverage -Xcc -fprofile-instr-generate -Xcc -fcoverage-mapping)
{ "$swift" build "${flags[@]}" --build-tests && "$swift" test "${flags[@]}" --skip-build; } >"$build.log" 2>&1 ||
    { grep -E '✘|rror' "$build.log"; exit 1; }
rm "$build.log"
program=$(echo "$build"/debug/*.xctest)
profile=$build/debug/codecov/default.profdata

# (Columns 8 to 10 of the report are the lines, the missed lines, and the share of the lines reached.)
"$tools/llvm-cov" report "$program" -instr-profile="$profile" -ignore-filename-regex='/(Tests|\.build[^/]*)/' | awk '
    $1 ~ /\.(swift|c|h)$/ && $8 > 0 {
        name = $1; sub(/.*Sources\//, "", name)
        group = name ~ /^CKernels/ ? "the C core" : "the Swift layer and the C interface"
        lines[group] += $8; missed[group] += $9
        printf "%-66s %6d lines %5d missed %8s\n", name, $8, $9, $10
    }
    END { for (group in lines) printf "%-66s %6d lines %5d missed %7.2f%%\n", group, lines[group], missed[group], 100 - 100 * missed[group] / lines[group] }'

if [ "${1:-}" = --lines ]; then
    "$tools/llvm-cov" show "$program" -instr-profile="$profile" -show-instantiations=false \
        -ignore-filename-regex='/(Tests|\.build[^/]*)/' | awk -F'|' '/^\/.*:$/ { name = $0; sub(/.*Sources\//, "", name) } $2 ~ /^ *0$/ { print name $1 "|" $3 }'
fi
