#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the C library as people get it: built, installed, found by pkg-config, and used by programs that know nothing of Swift.
#
#     Tests/check-c-abi.sh
#
# Prints a line a check; ends with the number of failures, and fails if there are any.
# CC and CXX name other compilers, PYTHON one that may import torch.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

cc=${CC:-cc}
cxx=${CXX:-c++}
python=${PYTHON:-$root/out/reference/bin/python}
command -v "$python" >/dev/null || python=python3
warnings=(-Wall -Wextra -Wpedantic -Werror)

if [ "$(uname -s)" != Linux ]; then
    echo "skip  the self-contained library is made on Linux only"
    finish
fi

# ---- Building and installing

prefix=$work/prefix
check "make lib" make -C "$root" lib
check "make install" make -C "$root" install PREFIX="$prefix"
check "make install with a DESTDIR" make -C "$root" install PREFIX=/usr DESTDIR="$work/destination"
check "the installed files lie under the DESTDIR" test -f "$work/destination/usr/lib/pkgconfig/diffusion_scheduling.pc"

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
library=$prefix/lib/libdiffusion_scheduling.so
header=$prefix/include/diffusion_scheduling.h
echo "      $(stat -L -c %s "$library") bytes"

versions_agree() {
    local version
    version=$(awk '/define DS_VERSION_(MAJOR|MINOR|PATCH)/ { v = v dot $3; dot = "." } END { print v }' "$header")
    [ "$(pkg-config --modversion diffusion_scheduling)" = "$version" ] && [ -f "$library.$version" ]
}
check "header, pkg-config file and file name have one version" versions_agree

# ---- Symbols: all that the header declares, nothing else

exports_are_the_header() {
    diff <(grep -oE '\bds_[a-z0-9_]+\(' "$header" | tr -d '(' | sort -u) \
        <(nm -D --defined-only "$library" | awk '{ print $3 }' | sort -u)
}
check "the library exports what the header declares, and nothing else" exports_are_the_header

# Schedulers are data: their names stand in comments, as examples, and in the text that a caller passes.
names_no_scheduler() {
    local names='DEIS|DDIM|DDPM|DPMSolver|DPM_Solver|Euler|FlowMatch|UniPC|PNDM|Heun|KDPM2|LCM|TCD|CogVideoX|SCM|CMStochastic|UnCLIP|Wuerstchen|EDM|Cosine|SASolver|SA_Solver|LMS|LTX|MiniMax|FlowMap|Helios' file failed=0
    if nm -D --defined-only "$library" | awk '{ print $3 }' | grep -iE "$names"; then failed=1; fi
    while IFS= read -r file; do
        if sed -E 's@^ *(/?\*|//).*@@; s@/\*.*@@; s@ //.*@@' "$file" | grep -nE "$names"; then
            echo "in $file"
            failed=1
        fi
    done < <(find "$root"/Sources/{CKernels,DiffusionSchedulingC,CDiffusionScheduling} -type f)
    return "$failed"
}
check "no function and no source of the C interface names a scheduler" names_no_scheduler

needs_only_the_system() {
    local needed
    needed=$(readelf -d "$library" | awk -F'[][]' '/NEEDED/ { print $2 }') || return
    ! grep -vE '^(libc|libm|libgcc_s|libstdc\+\+|ld-linux[a-z0-9-]*|libdl|libpthread)\.so' <<<"$needed" || return
    ! ldd "$library" | grep -Ei 'swift|foundation|not found|omp'
}
check "the library needs no Swift runtime and no OpenMP runtime" needs_only_the_system

# ---- The header

echo '#include <diffusion_scheduling.h>' >"$work/header.c"
cp "$work/header.c" "$work/header.cpp"
compilers=("$cc")
for compiler in clang gcc; do
    if command -v "$compiler" >/dev/null; then compilers+=("$compiler"); fi
done
for compiler in "${compilers[@]}"; do
    check "the header is C11 for $compiler" \
        "$compiler" -std=c11 "${warnings[@]}" -Wconversion -I"$prefix/include" -fsyntax-only "$work/header.c"
    check "the header is C++17 for $compiler" \
        "$compiler" -x c++ -std=c++17 "${warnings[@]}" -Wconversion -I"$prefix/include" -fsyntax-only "$work/header.cpp"
done

# ---- Programs, which know the pkg-config file only

# builds NAME COMPILER STANDARD SOURCE [FLAGS...]
builds() {
    local name=$1 compiler=$2 standard=$3 source=$4
    shift 4
    # shellcheck disable=SC2046
    "$compiler" -std="$standard" -O2 "${warnings[@]}" "$@" $(pkg-config --cflags diffusion_scheduling) "$source" -o "$work/$name" \
        $(pkg-config --libs diffusion_scheduling) -lm
}

# Swift's runtime keeps its caches until the process ends, by pointers that valgrind calls possible: only what is certainly lost is
# an error. (OMP_NUM_THREADS=1, because libomp's own threads outlive the program.)
under_valgrind() {
    OMP_NUM_THREADS=1 valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite,indirect \
        --errors-for-leak-kinds=definite,indirect "$@"
}

check "Examples/C: builds with its makefile" make -s -C "$root/Examples/C" CFLAGS="${warnings[*]}" OUT="$work/sample"
check "Examples/C: runs" "$work/sample"
check "Examples/Cpp: builds with its makefile" make -s -C "$root/Examples/Cpp" CXXFLAGS="${warnings[*]}" OUT="$work/requests"
check "Examples/Cpp: runs" "$work/requests"
check "bad calls: builds" builds bad_calls "$cc" c11 "$root/Tests/c/abi_bad_calls.c"
check "bad calls: each gives its status and a sentence, and writes nothing" "$work/bad_calls"
check "threads: builds" builds threads "$cc" c11 "$root/Tests/c/abi_threads.c" -pthread
check "threads: one scheduler planned anew under running sessions" "$work/threads"
check "step time: builds" builds step_time "$cc" c11 "$root/Tests/c/abi_step_time.c"
check "step time: a step allocates nothing" "$work/step_time"
sed 's/^/      /' "$work/log"

if command -v valgrind >/dev/null; then
    for program in sample requests bad_calls; do
        check "valgrind: $program" under_valgrind "$work/$program"
    done
    check "valgrind: threads" under_valgrind "$work/threads" 20
else
    echo "skip  valgrind isn't installed"
fi

# ---- A guest in other processes: prints nothing, installs nothing, works after fork, on small stacks, twice, after dlclose

cp "$library" "$work/copy.so"
locale=()
if command -v localedef >/dev/null && localedef -i de_DE -f UTF-8 "$work/de_DE.UTF-8" 2>/dev/null; then
    locale=(de_DE.UTF-8)
else
    echo "skip  there is no locale with a decimal comma to be had"
fi
# manners NAME [ENVIRONMENT...]
manners() { env LOCPATH="$work" OMP_NUM_THREADS=4 "${@:2}" "$work/$1" "$library" "$work/copy.so" ${locale[@]+"${locale[@]}"}; }

manners_builds() { "$1" -std=gnu11 -O1 -Wall -Wextra -Werror "${@:3}" -I"$prefix/include" "$root/Tests/c/abi_manners.c" -o "$work/$2" -ldl -pthread; }
check "manners: builds" manners_builds "$cc" manners
check "manners: as the only user of threads" manners manners
for runtime in libgomp.so.1 libomp.so.5; do
    if LD_PRELOAD=$runtime /bin/true 2>&1 | grep -q .; then
        echo "skip  $runtime isn't installed"
    else
        check "manners: in a process with $runtime" manners manners LD_PRELOAD="$runtime"
    fi
done
if command -v gcc >/dev/null; then
    check "manners: builds as a host with OpenMP" manners_builds gcc manners-openmp -fopenmp
    check "manners: in a host's parallel region" manners manners-openmp
fi

# ---- Inputs of the fuzzers: their seeds, and what they found once

replays() {
    local target=$1 directory
    local -a inputs=()
    for directory in "$root/fuzz/seeds/$target" "$root/fuzz/findings/$target"; do
        if [ -d "$directory" ]; then inputs+=("$directory"/*); fi
    done
    "$cc" -std=c11 -O1 -Wall -Wextra -Werror $(pkg-config --cflags diffusion_scheduling) "$root/fuzz/targets/$target.c" \
        "$root/fuzz/targets/replay.c" -o "$work/$target" $(pkg-config --libs diffusion_scheduling) -lm || return
    "$work/$target" "${inputs[@]}"
}
for target in configuration session calls; do
    check "fuzz inputs: $target" replays "$target"
    tail -n 1 "$work/log" | sed 's/^/      /'
done

# ---- In a process with torch

if "$python" -c 'import torch' 2>/dev/null; then
    check "torch: its OpenMP runtime is shared, no second one starts" "$python" "$root/Tests/c/abi_in_torch.py" "$library"
else
    echo "skip  $python can't import torch"
fi

finish
