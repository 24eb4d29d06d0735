#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks facts of the C core that the Swift tests can't see: the sources are clean C11 for two compilers, every symbol has the
# prefix, and the results' bits depend neither on the compiler nor on the OpenMP runtime.
#
#     Tests/check-c.sh [quick|full]
#
# quick  two compilers' warnings, the header, the symbols, and the bits of one build
# full   also: fused operations, the bits of every compiler and runtime, gcc with OpenMP
#
# Prints a line per check; ends with the number of failures, and fails if there are any.
# CC_CLANG, CXX_CLANG, CC_GCC and CXX_GCC name other compilers.
set -euo pipefail

mode=${1:-full}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
sources=$here/../Sources/CKernels
include=$sources/include
program=$here/c/steps.c
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

clang=${CC_CLANG:-clang}
gcc=${CC_GCC:-gcc}
clangxx=${CXX_CLANG:-clang++}
gxx=${CXX_GCC:-g++}
warnings=(-Wall -Wextra -Wpedantic -Werror)

# The checksum of Tests/c/steps.c on every processor. It changes only with the program or the documented arithmetic.
checksum=1ab9be4b082c64af

# objects NAME COMPILER FLAGS...: compiles every source file into objects under that name, in parallel.
objects() {
    local directory=$work/objects/$1 compiler=$2 source job status=0
    local -a jobs=()
    shift 2
    mkdir -p "$directory" || return
    for source in "$sources"/*.c; do
        "$compiler" "$@" -I"$include" -c "$source" -o "$directory/$(basename "$source" .c).o" &
        jobs+=($!)
    done
    for job in "${jobs[@]}"; do wait "$job" || status=1; done
    return "$status"
}

# ---- Sources and header

# With -O3 the two compilers take a minute and a half.
optimised=-O3
[ "$mode" = quick ] && optimised=-O1
check "clang compiles the sources without a warning" \
    objects clang "$clang" -std=c11 $optimised "${warnings[@]}" -Wconversion
if [ "$mode" = quick ]; then
    # Without -O, gcc's intrinsics are macros that convert signs.
    check "gcc reads the sources without a warning" \
        "$gcc" -std=c11 -O1 "${warnings[@]}" -Wconversion -I"$include" -fsyntax-only "$sources"/*.c
else
    check "gcc compiles the sources without a warning" \
        objects gcc "$gcc" -std=c11 -O3 -ffp-contract=off "${warnings[@]}" -Wconversion
    check "gcc -fopenmp compiles the sources without a warning" \
        objects openmp "$gcc" -std=c11 -O3 -ffp-contract=off -fopenmp "${warnings[@]}" -Wconversion
fi

echo '#include "CKernels.h"' >"$work/header.c"
cp "$work/header.c" "$work/header.cpp"
for compiler in "$clang" "$gcc"; do
    check "the header alone is C11 for $(basename "$compiler")" \
        "$compiler" -std=c11 "${warnings[@]}" -I"$include" -fsyntax-only "$work/header.c"
done
for compiler in "$clangxx" "$gxx"; do
    check "the header alone is C++17 for $(basename "$compiler")" \
        "$compiler" -std=c++17 "${warnings[@]}" -I"$include" -fsyntax-only "$work/header.cpp"
done

# ---- Symbols

# Passes if the objects define dsk_step, and every external symbol that they define begins with dsk_.
symbols_are_prefixed() {
    local symbols
    # Mach-O puts an underscore before every name.
    symbols=$(nm -g "$work/objects/$1"/*.o | awk 'NF == 3 && $2 != "U" { sub(/^_/, "", $3); print $3 }') || return
    grep -q '^dsk_step$' <<<"$symbols" || { echo "dsk_step is not among the symbols"; return 1; }
    ! grep -v '^dsk_' <<<"$symbols"
}
for build in clang gcc openmp; do
    [ -d "$work/objects/$build" ] || continue
    check "every symbol of the $build objects begins with dsk_" symbols_are_prefixed "$build"
done

# ---- No fused multiply-add, even on processors that have it: fusing would change bits. The step's kernels for float32, and for
# halves with float32, may fuse, since their products are exact; noise.c writes out its fused operations for every processor.

nothing_is_fused() {
    local fused
    objects fused "$@" || return
    fused=$(objdump -d "$work/objects/fused"/*.o | awk '
        /file format/ { file = $1 }
        /^[0-9a-f]+ <.*>:$/ { may_fuse = $2 ~ /_(float32|short)_/ || file ~ /noise\.o:/; name = $2 }
        /\t(vfn?m(add|sub)|fn?m(add|sub)\t|fml[as]\t)/ && !may_fuse { print file, name, $0 }') || return
    [ -z "$fused" ] || { head -n 5 <<<"$fused"; return 1; }
}
case $(uname -m) in
    x86_64) fused_arch=(-march=x86-64-v3) ;;
    *) fused_arch=() ;;
esac
if [ "$mode" = full ] && command -v objdump >/dev/null; then
    check "clang fuses no product with a sum where bits depend on it" \
        nothing_is_fused "$clang" -std=c11 -O3 ${fused_arch[@]+"${fused_arch[@]}"}
    check "gcc -ffp-contract=off fuses no product with a sum where bits depend on it" \
        nothing_is_fused "$gcc" -std=c11 -O3 -ffp-contract=off ${fused_arch[@]+"${fused_arch[@]}"}
fi

# ---- The same bits from every build

# The program asks for at most 7 threads, or for the default, which is 8 here. Idle threads leave the cores to others.
export OMP_NUM_THREADS=8 OMP_WAIT_POLICY=passive OMP_DYNAMIC=false

# built NAME COMPILER OBJECTS FLAGS...: links the program with the objects under that name.
built() {
    local name=$1 compiler=$2 objects=$3
    shift 3
    "$compiler" -std=c11 -O2 "${warnings[@]}" -I"$include" "$program" "$work/objects/$objects"/*.o "$@" -o "$work/$name"
}

# runs NAME [ENVIRONMENT...] PROGRAM: runs a build and keeps its output under NAME.
runs() {
    local output=$work/$1.out
    shift
    env "${@:1:$#-1}" "$work/${!#}" >"$output"
}

# says NAME PATTERN...: passes if the run printed a line for each pattern.
says() {
    local output=$work/$1.out pattern
    shift
    for pattern in "$@"; do
        grep -Eq "$pattern" "$output" || { echo "expected a line like: $pattern"; cat "$output"; return 1; }
    done
}

# Passes if the run printed at least five checksums, one for each number of threads, and all are the expected one.
checksums_agree() {
    local output=$work/$1.out
    [ "$(grep -c ' checksum ' "$output")" -ge 5 ] || { cat "$output"; return 1; }
    ! grep ' checksum ' "$output" | grep -v " checksum $checksum\$"
}

system_libraries=(-lm)
[ "$(uname -s)" = Linux ] && system_libraries+=(-ldl)

# Makes the core's lookups of a runtime fail.
cat >"$work/hide.c" <<'END'
#include <stddef.h>
void *__wrap_dlopen(const char *name, int flags);
void *__wrap_dlsym(void *library, const char *name);
void *__wrap_dlopen(const char *name, int flags) { (void)name; (void)flags; return NULL; }
void *__wrap_dlsym(void *library, const char *name) { (void)library; (void)name; return NULL; }
END

# Passes if the bits are the same in every floating-point environment of the host, and the environment stays unchanged.
environment_holds() {
    local name=environment-$1 compiler=$2 objects=$3
    shift 3
    "$compiler" -std=c11 -O2 "${warnings[@]}" -I"$include" "$here/c/environment.c" "$work/objects/$objects"/*.o "$@" \
        "${system_libraries[@]}" -o "$work/$name" || return
    "$work/$name"
}

bits_are_right() {
    check "$1: every instruction set and number of threads gives checksum $checksum" checksums_agree "$1"
}

check "run-time: builds" built run-time "$clang" clang "${system_libraries[@]}"
check "run-time: runs" runs run-time run-time
check "run-time: says which runtime it uses" says run-time '^runtime: .{5,}' '^threads: [0-9]+$'
bits_are_right run-time

if [ "$mode" = quick ]; then
    check "environment: neither trusted nor changed, clang" environment_holds clang "$clang" clang
    finish
fi

check "run-time-gcc: builds" built run-time-gcc "$gcc" gcc "${system_libraries[@]}"
check "run-time-gcc: runs" runs run-time-gcc run-time-gcc
bits_are_right run-time-gcc

check "openmp: builds" built openmp "$gcc" openmp -fopenmp "${system_libraries[@]}"
check "openmp: runs" runs openmp openmp
check "openmp: says that OpenMP is compiled in" says openmp '^runtime: .*compiled in' '^threads: 8$' ' nested '
bits_are_right openmp

if [ "$(uname -s)" = Linux ]; then # --wrap is the GNU linker's
    check "none: builds" built none "$clang" clang "$work/hide.c" -Wl,--wrap=dlopen -Wl,--wrap=dlsym "${system_libraries[@]}"
    check "none: runs" runs none none
    check "none: says that calls stay on the caller's thread" says none "^runtime: none .*caller's thread" '^threads: 1$'
    bits_are_right none

    # A runtime already in the process takes precedence over one that could be loaded.
    for library in libgomp.so.1 libomp.so.5; do
        if LD_PRELOAD=$library /bin/true 2>&1 | grep -q .; then
            echo "skip  $library isn't installed"
            continue
        fi
        check "$library: runs" runs "$library" LD_PRELOAD="$library" run-time
        check "$library: is taken as the process's runtime" says "$library" "^runtime: the process's" '^threads: 8$'
        bits_are_right "$library"
    done
fi

# ---- The floating-point environment

check "environment: neither trusted nor changed, clang" environment_holds clang "$clang" clang
check "environment: neither trusted nor changed, gcc with OpenMP" environment_holds openmp "$gcc" openmp -fopenmp

finish
