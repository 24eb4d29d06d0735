#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the C library as people get it: built, installed, found by pkg-config, and used by programs without Swift.
#
#     Tests/check-c-abi.sh
#
# Prints a line per check; ends with the number of failures, and fails if there are any.
# CC and CXX name other compilers, SWIFT another Swift, PYTHON an interpreter that may have torch.
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

# ---- Symbols: everything that the header declares, and nothing else

exports_are_the_header() {
    diff <(grep -oE '\bds_[a-z0-9_]+\(' "$header" | tr -d '(' | sort -u) \
        <(nm -D --defined-only "$library" | awk '{ print $3 }' | sort -u)
}
check "the library exports what the header declares, and nothing else" exports_are_the_header

# Schedulers are data: their names occur in comments, as examples, and in the text that a caller passes.
names_no_scheduler() {
    local names='DEIS|DDIM|DDPM|DPMSolver|DPM_Solver|Euler|FlowMatch|UniPC|PNDM|Heun|KDPM2|LCM|TCD|CogVideoX|SCM|CMStochastic|UnCLIP|Wuerstchen|EDM|Cosine|SASolver|SA_Solver|LMS|LTX|MiniMax|FlowMap|Helios|KarrasVe|ScoreSde|Piflow' file failed=0
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

# ---- The headers

printf '#include <%s>\n' diffusion_scheduling.h device_table.h >"$work/header.c"
cp "$work/header.c" "$work/header.cpp"
compilers=("$cc")
for compiler in clang gcc; do
    if command -v "$compiler" >/dev/null; then compilers+=("$compiler"); fi
done
for compiler in "${compilers[@]}"; do
    check "the headers are C11 for $compiler" \
        "$compiler" -std=c11 "${warnings[@]}" -Wconversion -I"$prefix/include" -fsyntax-only "$work/header.c"
    check "the headers are C++17 for $compiler" \
        "$compiler" -x c++ -std=c++17 "${warnings[@]}" -Wconversion -I"$prefix/include" -fsyntax-only "$work/header.cpp"
done

# ---- Programs that find the library with pkg-config

# builds NAME COMPILER STANDARD SOURCE [FLAGS...]
builds() {
    local name=$1 compiler=$2 standard=$3 source=$4
    shift 4
    # shellcheck disable=SC2046
    "$compiler" -std="$standard" -O2 "${warnings[@]}" "$@" $(pkg-config --cflags diffusion_scheduling) "$source" -o "$work/$name" \
        $(pkg-config --libs diffusion_scheduling) -lm
}

# Swift's runtime keeps its caches until the process ends. valgrind reports some of them as possible leaks, so only definite and
# indirect leaks are errors. OMP_NUM_THREADS is 1 because libomp's own threads outlive the program.
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
    echo "skip  a locale with a decimal comma can't be made"
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

# ---- The static library: in programs of several linkers, in shared libraries, and beside a program's own Swift runtime

static=$prefix/lib/libdiffusion_scheduling.a
echo "      $(stat -c %s "$static") bytes"
static_libraries=("$static" -lstdc++ -lm -lpthread -ldl)

defines_the_header() {
    diff <(grep -oE '\bds_[a-z0-9_]+\(' "$header" | tr -d '(' | sort -u) \
        <(nm --defined-only --extern-only "$static" | awk 'NF == 3 { print $3 }' | sort -u)
}
check "static: it defines what the header declares, and nothing else" defines_the_header
shares_nothing_with_other_swift() {
    ! nm --undefined-only "$static" | awk '{ print $2 }' | grep -E '^(swift_|\$s|__(start|stop)_swift5)' || return
    ! readelf -SW "$static" | grep -E ' (swift5_|\.swift1_)' || return
    readelf -gW "$static" | grep -F 'no section groups'
}
check "static: shares no symbol, section or group with another Swift runtime" shares_nothing_with_other_swift

# links_statically NAME COMPILER SOURCE [FLAGS...]
links_statically() {
    "$2" -O2 "${@:4}" -I"$prefix/include" "$3" -o "$work/static-$1" "${static_libraries[@]}" -pthread
}
# prints_alike NAME PROGRAM: passes if the statically linked program NAME prints the same bytes as PROGRAM.
prints_alike() {
    ! ldd "$work/static-$1" | grep -E 'swift|diffusion|omp' || return
    env -u LD_LIBRARY_PATH "$work/static-$1" >"$work/static-output" || return
    "$2" | cmp - "$work/static-output"
}
sample=$root/Examples/C/sample.c
check "static: Examples/C builds" links_statically sample "$cc" "$sample" -std=c11 "${warnings[@]}"
check "static: Examples/C prints the same bytes" prints_alike sample "$work/sample"
sed -n 's/^\([0-9]* samples.*\)/      \1/p' "$work/static-output"
check "static: Examples/Cpp builds" links_statically requests "$cxx" "$root/Examples/Cpp/requests.cpp" -std=c++17 "${warnings[@]}"
check "static: Examples/Cpp prints the same bytes" prints_alike requests "$work/requests"
for linker in bfd gold lld mold; do
    if "$cc" -fuse-ld=$linker -Wl,--version -o /dev/null >"$work/log" 2>&1; then
        for flag in -pie -no-pie -Wl,--gc-sections; do
            check "static: ld.$linker $flag builds" links_statically "$linker" "$cc" "$sample" -fPIE -fuse-ld=$linker "$flag"
            check "static: ld.$linker $flag prints the same bytes" prints_alike "$linker" "$work/sample"
        done
    fi
done
completely_static() {
    # shellcheck disable=SC2046
    "$cc" -O2 $(pkg-config --cflags diffusion_scheduling) "$sample" -static -o "$work/complete" \
        $(pkg-config --static --libs diffusion_scheduling) -lm || return
    ! ldd "$work/complete" || return
    "$work/complete" | head -n 25 | cmp - <("$work/sample" | head -n 25)
}
check "static: pkg-config --static with cc -static" completely_static
for program in bad_calls threads; do
    check "static: $program builds" links_statically $program "$cc" "$root/Tests/c/abi_$program.c" -std=c11
    check "static: $program runs" "$work/static-$program"
done
if command -v valgrind >/dev/null; then check "static: valgrind" under_valgrind "$work/static-sample"; fi
# The shared library exports only the static library's functions, so abi_manners accepts it as the library.
in_a_shared_library() {
    "$cc" -shared -o "$work/embedding.so" -Wl,--whole-archive "$static" -Wl,--no-whole-archive "${static_libraries[@]:1}" \
        -Wl,-z,defs,-z,text,-z,nodelete || return
    cp "$work/embedding.so" "$work/embedding-copy.so"
    env LOCPATH="$work" OMP_NUM_THREADS=4 "$work/manners" "$work/embedding.so" "$work/embedding-copy.so" ${locale[@]+"${locale[@]}"}
}
check "static: manners, inside two shared libraries of one process" in_a_shared_library
in_a_swift_program() {
    "${SWIFT:-swift}c" "$@" -import-objc-header "$header" "$root/Tests/c/abi_swift_host.swift" "${static_libraries[@]}" \
        -o "$work/swift-host" || return
    "$work/swift-host"
}
check "static: beside the runtime of a Swift program, statically linked" in_a_swift_program -static-stdlib
check "static: beside the runtime of a Swift program, as a shared library" in_a_swift_program

# ---- CMake, with the shared and with the static library

if command -v cmake >/dev/null; then
    mkdir "$work/project"
    cp "$sample" "$work/project/sample.c"
    cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.15)
project(sample C)
find_package(DiffusionScheduling 0.1 REQUIRED ${SEARCH} COMPONENTS ${COMPONENTS})
add_executable(shared sample.c)
target_link_libraries(shared PRIVATE DiffusionScheduling::DiffusionScheduling m)
if(TARGET DiffusionScheduling::static)
  add_executable(static sample.c)
  target_link_libraries(static PRIVATE DiffusionScheduling::static)
  add_library(plug_in MODULE sample.c)
  target_link_libraries(plug_in PRIVATE DiffusionScheduling::static)
endif()
END
    # configures NAME [OPTIONS...]: runs CMake without the environment's variables that name the prefix.
    configures() {
        env -u LD_LIBRARY_PATH -u PKG_CONFIG_PATH cmake -S "$work/project" -B "$work/build-$1" -D CMAKE_C_COMPILER="$cc" "${@:2}"
    }
    # with_cmake NAME [OPTIONS...]: passes if both programs print the same bytes, and the plug-in, unlike them, is never unloaded.
    with_cmake() {
        local program
        configures "$@" && cmake --build "$work/build-$1" || return
        for program in shared static; do
            env -u LD_LIBRARY_PATH "$work/build-$1/$program" >"$work/cmake-$program" || return
        done
        cmp "$work/cmake-shared" "$work/cmake-static" || return
        ! ldd "$work/build-$1/static" | grep diffusion || return
        readelf -d "$work/build-$1/libplug_in.so" | grep NODELETE || return
        ! readelf -d "$work/build-$1/static" | grep NODELETE
    }
    cmake_prefix() { with_cmake "$1" -D CMAKE_PREFIX_PATH="$prefix" "${@:2}"; }
    uses_the_prefix() { ldd "$work/build-$1/shared" | grep -F "$prefix/lib/libdiffusion_scheduling"; }
    check "CMake: with the prefix in CMAKE_PREFIX_PATH" cmake_prefix prefix
    check "CMake: the shared target is the installed library" uses_the_prefix prefix
    check "CMake: with DiffusionScheduling_DIR" with_cmake dir -D DiffusionScheduling_DIR="$prefix/lib/cmake/DiffusionScheduling"
    check "CMake: the component static is found" cmake_prefix component -D COMPONENTS=static
    # refuses NAME SENTENCE [OPTIONS...]: passes if CMake fails and prints the sentence, over any number of lines.
    refuses() {
        ! configures "$1" "${@:3}" >"$work/refusal" 2>&1 || return
        cat "$work/refusal"
        tr -s ' \n' ' ' <"$work/refusal" | grep -F "$2"
    }
    check "CMake: without the prefix nothing is found" refuses nowhere 'Could not find a package configuration file' \
        -D SEARCH="NO_CMAKE_SYSTEM_PATH;NO_SYSTEM_ENVIRONMENT_PATH"
    check "CMake: an unknown component is refused" refuses unknown 'The component "other" doesn'"'"'t exist: the only one is "static"' \
        -D CMAKE_PREFIX_PATH="$prefix" -D COMPONENTS=other
    cp -r "$prefix" "$work/shared-only"
    sed -i "s|$prefix|$work/shared-only|g" "$work/shared-only/lib/cmake/DiffusionScheduling/DiffusionSchedulingConfig.cmake"
    rm "$work/shared-only/lib/libdiffusion_scheduling.a"
    check "CMake: without the static library, the component static is refused" refuses shared-only \
        "The static library $work/shared-only/lib/libdiffusion_scheduling.a is missing" -D CMAKE_PREFIX_PATH="$work/shared-only" \
        -D COMPONENTS=static
    rm "$work"/shared-only/lib/libdiffusion_scheduling.so*
    check "CMake: without the shared library, the package is refused" refuses no-library \
        "The shared library $work/shared-only/lib/libdiffusion_scheduling.so.0 is missing" -D CMAKE_PREFIX_PATH="$work/shared-only"
else
    echo "skip  cmake isn't installed"
fi

# ---- Inputs of the fuzzers: seeds, corpora and former findings

replays() {
    local target=$1 directory
    local -a inputs=()
    for directory in "$root"/fuzz/{seeds,corpus,findings}/"$target"; do
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
