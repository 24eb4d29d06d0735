#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests in builds that find other faults: with sanitizers, for another processor, with fewer instructions or threads.
#
#     Tests/check-variants.sh [quick|full]
#
# quick  the C core under four sanitizers and for aarch64, the Swift tests under the address and undefined behaviour sanitizers
# full   also, with random seeds: the Swift tests under the thread sanitizer, and optimised in each instruction set and with 1, 2, 3
#        and 7 threads; seven times as many random configurations; the Python tests, those of its C module also under sanitizers; the C
#        core under valgrind
#
# Prints a line per check; ends with the number of failures, and fails if there are any. SWIFT names another Swift.
# Checks that need no special build are in Tests/check-c.sh and Tests/check-c-abi.sh: warnings, symbols, compilers, runtimes, the
# installed library.
set -euo pipefail

mode=${1:-quick}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$here/..
core=$root/Sources/CKernels
swift=${SWIFT:-swift}
# The sanitizers' runtimes must match the compiler.
clang=$(dirname "$(readlink -f "$(command -v "$swift")")")/clang
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
export OMP_WAIT_POLICY=passive
# Every failure prints the seed that repeats it.
if [ "$mode" = full ]; then export DIFFUSION_SCHEDULING_TEST_SEED=${DIFFUSION_SCHEDULING_TEST_SEED:-random}; fi

checksum=$(sed -nE 's/^checksum=([0-9a-f]+)$/\1/p' "$here/check-c.sh")

# core NAME RUNNER COMPILER FLAGS...: compiles the core, links it with each of two programs, and runs them. Flags for libraries or
# sources apply to linking only.
core() {
    local name=$1 runner=$2 compiler=$3 directory=$work/$1 source program flag job
    shift 3
    local -a compiling=() jobs=()
    for flag in "$@"; do case $flag in -l* | -L* | -Wl,* | -fuse-ld=* | *.c) ;; *) compiling+=("$flag") ;; esac; done
    mkdir -p "$directory"
    for source in "$core"/*.c; do
        "$compiler" -std=c11 -g -O1 -ffp-contract=off -I"$core/include" "${compiling[@]}" -c "$source" \
            -o "$directory/$(basename "$source" .c).o" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || return; done
    for program in environment steps; do
        "$compiler" -std=c11 -g -O1 -ffp-contract=off -I"$core/include" "$here/c/$program.c" "$directory"/*.o "$@" -lm \
            -o "$directory/$program" || return
    done
    $runner "$directory/environment" || return
    # Every instruction set and number of threads gives one checksum.
    $runner "$directory/steps" >"$directory/out" || return
    grep -q "checksum $checksum\$" "$directory/out" && ! grep checksum "$directory/out" | grep -v "checksum $checksum\$"
}

# ---- The C core

export OMP_NUM_THREADS=8
check "core: address and undefined behaviour sanitizers" \
    core address "" "$clang" -fuse-ld=lld -fsanitize=address,undefined -fno-sanitize-recover=all -ldl
check "core: memory sanitizer" \
    core memory "" "$clang" -fuse-ld=lld -fsanitize=memory -fno-sanitize-recover=all "$here/c/gomp_pthreads.c" -Wl,--export-dynamic -pthread -ldl
check "core: thread sanitizer" \
    core thread "" "$clang" -fuse-ld=lld -fsanitize=thread "$here/c/gomp_pthreads.c" -Wl,--export-dynamic -pthread -ldl -ldispatch -lBlocksRuntime \
    -L"$(dirname "$clang")/../lib/swift/linux" -Wl,-rpath,"$(dirname "$clang")/../lib/swift/linux"

if command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null; then
    emulator="qemu-aarch64 -L /usr/aarch64-linux-gnu"
    check "core: for aarch64, emulated" core aarch64 "$emulator" aarch64-linux-gnu-gcc -Wall -Wextra -Werror -Wno-psabi -ldl
    check "core: for aarch64 with OpenMP, emulated" core aarch64-openmp "$emulator" aarch64-linux-gnu-gcc -fopenmp
else
    echo "skip  no compiler and emulator for aarch64 (gcc-aarch64-linux-gnu, qemu-user)"
fi
if [ "$mode" = full ]; then
    # Some versions of valgrind don't read DWARF 5.
    check "core: valgrind" core valgrind "valgrind -q --error-exitcode=99 --leak-check=full" "$clang" -gdwarf-4 "$here/c/gomp_pthreads.c" \
        -Wl,--export-dynamic -pthread -ldl
fi
unset OMP_NUM_THREADS

# ---- The Swift tests

# These checks make the loops take six times as long to compile. The runs above have covered all of the C core's loops with them.
pointers=pointer-overflow,null,alignment,object-size

# swift_build NAME FLAGS...
swift_build() {
    local name=$1
    shift
    "$swift" build --package-path "$root" --scratch-path "$root/.build-$name" --build-tests "$@"
}

# Optimised, since unoptimised tests take five times as long; Swift keeps its own checks nevertheless.
sanitized=(-c release -Xswiftc -enable-testing --sanitize=address -Xlinker -lstdc++ -Xcc -fsanitize=undefined -Xcc -fno-sanitize-recover=undefined
    -Xcc "-fno-sanitize=$pointers")
check "Swift: builds with address and undefined behaviour sanitizers" swift_build address "${sanitized[@]}"
# Swift's runtime keeps its type metadata, which isn't a leak. Memory faults seldom depend on the drawn numbers, so a third of the
# random cases is enough.
draws=0.33
if [ "$mode" = full ]; then draws=1; fi
check "Swift: address and undefined behaviour sanitizers" env ASAN_OPTIONS=detect_leaks=0 DIFFUSION_SCHEDULING_TEST_DRAWS=$draws "$here/swift-test.sh" \
    --scratch-path "$root/.build-address" --skip-build "${sanitized[@]}"

if [ "$mode" = full ]; then
    check "Swift: builds with the thread sanitizer" swift_build thread --sanitize=thread
    "$clang" -fuse-ld=lld -shared -fPIC -O1 "$here/c/gomp_pthreads.c" -pthread -o "$work/gomp_pthreads.so"
    check "Swift: thread sanitizer" env LD_PRELOAD="$work/gomp_pthreads.so" \
        TSAN_OPTIONS="suppressions=$here/thread-sanitizer.txt print_suppressions=1" "$here/swift-test.sh" \
        --scratch-path "$root/.build-thread" --skip-build --sanitize=thread
    optimised=(-c release -Xswiftc -enable-testing)
    # The C core's tests themselves go through the instruction sets and numbers of threads.
    layer=("$here/swift-test.sh" --scratch-path "$root/.build-optimised" "${optimised[@]}" --skip-build
        --filter "DiffusionScheduling(C)?Tests")
    check "Swift: builds optimised" swift_build optimised "${optimised[@]}"
    for isa in 0 1 2; do
        check "Swift: instruction set $isa" env DIFFUSION_SCHEDULING_TEST_ISA=$isa "${layer[@]}"
    done
    for threads in 1 2 3 7; do
        check "Swift: $threads threads" env OMP_NUM_THREADS=$threads "${layer[@]}"
    done
    check "Swift: seven times as many random configurations, valid and invalid" \
        env DIFFUSION_SCHEDULING_TEST_DRAWS=7 "${layer[@]:0:${#layer[@]}-1}" "Random(Invalid)?ConfigurationTests"
fi

if [ "$mode" = full ]; then
    check "Python: drawn seeds" make -C "$root" python-test
    # quick_steps: the tests of the quick version of steps, in a copy of the package with an instrumented module.
    quick_steps() (
        cp -r "$root/bindings/python/diffusion_scheduling" "$root/bindings/python/tests" "$work" || return
        gcc -std=c17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fPIC -shared \
            -I"$root/Sources/CDiffusionScheduling/include" \
            -I"$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" "$root/bindings/python/quick.c" \
            -o "$work/diffusion_scheduling/_quick.abi3.so" || return
        cd "$work"
        # Python's own allocator hides freed memory from the sanitizer, and Python never frees some of its memory.
        LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
            PYTHONMALLOC=malloc PYTHONPATH=$work "$root/out/python/bin/python" -m pytest -p no:cacheprovider tests/test_quick.py
    )
    check "Python: quick steps under address and undefined behaviour sanitizers" quick_steps
fi

finish "check-variants $mode"
