#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the fuzzers with the address and undefined behaviour sanitizers, and runs each for a while.
#
#     fuzz/run.sh [SECONDS [TARGET...]]        60, and all of: configuration plan session calls
#
# Prints a line per target, with the seconds of processor time used and requested; fails if any target found something. Findings go
# to out/fuzz/findings, and the corpus to out/fuzz/corpus, from which the next run continues. A finding whose cause is fixed belongs
# into fuzz/findings. The tests replay the findings, the seeds, and the small corpora in fuzz/corpus, merged by -set_cover_merge=1.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=${1:-60}
targets=("${@:2}")
[ ${#targets[@]} -gt 0 ] || targets=(configuration plan session calls)
swift=${SWIFT:-swift}
# The fuzzing runtime must be the one of Swift's own clang.
clang=$(dirname "$(readlink -f "$(command -v "$swift")")")/clang
out=$root/out/fuzz
build=$root/.build-fuzz
mkdir -p "$out"

sanitizers=address,undefined
# Pointer checks are left to Tests/check-variants.sh: all loops of the C core take six times as long to compile with them.
instrumented=(
    -Xswiftc -sanitize=address -Xswiftc "-sanitize-coverage=edge,inline-8bit-counters,pc-table,trace-cmp"
    -Xcc "-fsanitize=fuzzer-no-link,$sanitizers" -Xcc -fno-sanitize-recover=undefined
    -Xcc -fno-sanitize=pointer-overflow,null,alignment,object-size
)

for target in "${targets[@]}"; do
    product=DiffusionSchedulingC
    [ "$target" = plan ] && product=PlanTarget
    "$swift" build -c release --package-path "$root/fuzz" --scratch-path "$build" --product "$product" "${instrumented[@]}" \
        >"$out/build.log" 2>&1 || { cat "$out/build.log"; exit 1; }
    libraries=$build/release
    "$clang" -std=c11 -g -O1 -fuse-ld=lld "-fsanitize=fuzzer,$sanitizers" -fno-sanitize-recover=undefined -Wall -Wextra -Werror \
        -I"$root/Sources/CDiffusionScheduling/include" "$root/fuzz/targets/$target.c" -L"$libraries" -l"$product" -lm \
        -Wl,-rpath,"$libraries" -o "$build/$target"
done

failed=0
TIMEFORMAT='%U %S'
printf '%-14s %8s %10s %12s %8s %8s %10s %8s %9s\n' target seconds processor executions a-second coverage features corpus findings
for target in "${targets[@]}"; do
    corpus=$out/corpus/$target findings=$out/findings/$target
    mkdir -p "$corpus" "$findings"
    known=()
    for directory in "$root"/fuzz/{seeds,corpus,findings}/"$target"; do
        if [ -d "$directory" ]; then known+=("$directory"); fi
    done
    dictionary=()
    [ -f "$root/fuzz/dictionaries/$target.txt" ] && dictionary=("-dict=$root/fuzz/dictionaries/$target.txt")
    # Swift's runtime keeps its type metadata to the end, which isn't a leak; valgrind looks for leaks elsewhere. Unwritten memory
    # is NaN in every element type.
    status=0
    {
        time SWIFT_BACKTRACE=enable=no ASAN_OPTIONS=detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=65536 UBSAN_OPTIONS=print_stacktrace=1 "$build/$target" \
            -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2560 -max_len=8192 -print_final_stats=1 \
            -artifact_prefix="$findings/" ${dictionary[@]+"${dictionary[@]}"} "$corpus" "${known[@]}" >"$out/$target.log" 2>&1
    } 2>"$out/time" || status=$?
    processor=$(tail -n 1 "$out/time" | awk '{ printf "%d", $1 + $2 }')
    last=$(grep -E 'cov: [0-9]+' "$out/$target.log" | tail -n 1 || true)
    value() { sed -nE "s/.*stat::$1: *([0-9]+).*/\\1/p" "$out/$target.log" | tail -n 1; }
    field() { sed -nE "s/.* $1: ([0-9]+).*/\\1/p" <<<"$last"; }
    n_findings=$(find "$findings" -type f | wc -l)
    printf '%-14s %8s %10s %12s %8s %8s %10s %8s %9s\n' "$target" "$seconds" "$processor" "$(value number_of_executed_units)" \
        "$(value average_exec_per_sec)" "$(field cov)" "$(field ft)" "$(find "$corpus" -type f | wc -l)" "$n_findings"
    if [ "$status" -ne 0 ] || [ "$n_findings" -ne 0 ]; then
        failed=1
        tail -n 40 "$out/$target.log" | sed 's/^/    /'
    fi
done
exit "$failed"
