#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Line coverage of the tests: the C core and the Swift layer with the C interface by the Swift tests, the Python package by pytest.
#
#     Tests/coverage.sh [--lines]
#
# Prints a table of the files with missed lines, and with --lines those lines. Fails if a share is below its goal. SWIFT names another
# Swift; PYTHON one with diffusers, torch and coverage.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
swift=${SWIFT:-swift}
python=${PYTHON:-$root/out/reference/bin/python}
tools=$(dirname "$(readlink -f "$(command -v "$swift")")")
build=$root/.build-coverage
log=$build.log
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# quietly COMMAND...: shows the errors of a command that fails.
quietly() { "$@" >"$log" 2>&1 || { grep -E '✘|rror' "$log" || cat "$log"; exit 1; }; }

flags=(--package-path "$root" --scratch-path "$build" --enable-code-coverage -Xcc -fprofile-instr-generate -Xcc -fcoverage-mapping)
quietly "$swift" build "${flags[@]}" --build-tests
quietly "$swift" test "${flags[@]}" --skip-build
# A line of a template counts as reached if one of the loops made from it reaches it.
"$tools/llvm-cov" export -format=lcov "$(echo "$build"/debug/*.xctest)" -instr-profile="$build/debug/codecov/default.profdata" \
    -ignore-filename-regex='/(Tests|\.build[^/]*)/' >"$work/swift.lcov"

cd "$root/bindings/python"
export DIFFUSION_SCHEDULING_LIBRARY=$build/debug/libDiffusionSchedulingC.so LLVM_PROFILE_FILE=/dev/null COVERAGE_FILE=$work/python
quietly "$python" -m coverage run --source diffusion_scheduling -m pytest -W ignore
quietly "$python" -m coverage lcov -o "$work/python.lcov"
rm "$log"

awk -F'[:,]' -v lists="${1:-}" '
    function goal(group) { return group == "the C core" ? 99 : 95 }
    function flush() {
        if (missed > 0) printf "%-66s %6d lines %5d missed %7.2f%%\n", name, count, missed, 100 - 100 * missed / count
        if (lists == "--lines") printf "%s", list
        count = missed = 0; list = ""
    }
    /^SF:/ {
        name = $2; sub(/.*Sources\//, "", name)
        group = name ~ /^CKernels/ ? "the C core" : name ~ /\.py$/ ? "the Python package" : "the Swift layer and the C interface"
    }
    /^DA:/ { count++; lines[group]++; if ($3 == 0) { missed++; total[group]++; list = list "    " name ":" $2 "\n" } }
    /^end_of_record/ { flush() }
    END {
        for (group in lines) {
            share = 100 - 100 * total[group] / lines[group]
            printf "%-66s %6d lines %5d missed %7.2f%%, goal %d%%\n", group, lines[group], total[group], share, goal(group)
            if (share < goal(group)) low = 1
        }
        exit low
    }' "$work/swift.lcov" "$work/python.lcov"
