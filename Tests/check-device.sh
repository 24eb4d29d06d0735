#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the kernels in Sources/DeviceKernels and Examples/OpenCL: on this machine's OpenCL device, and compiled for others.
#
#     Tests/check-device.sh NVRTC
#
# NVRTC is the path of NVIDIA's runtime compiler, libnvrtc.so. The C library is in out/lib.
# Prints a line per check; ends with the number of failures, and fails if there are any. CC names another C compiler, CLANG another clang.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

nvrtc=$1
cc=${CC:-cc}
clang=${CLANG:-clang}
kernels=$root/Sources/DeviceKernels
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Werror)
unset LD_LIBRARY_PATH OCL_ICD_VENDORS
export POCL_CACHE_DIR=$work/pocl
mkdir "$POCL_CACHE_DIR"

# ---- The installed library

prefix=$work/prefix
check "make install" make -s -C "$root" install-library PREFIX="$prefix"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib
installs_the_kernels() { cmp "$kernels/include/device_table.h" "$prefix/include/device_table.h" && cmp "$kernels/device_kernels.h" "$prefix/include/device_kernels.h"; }
check "make install installs table and kernels beside the header" installs_the_kernels

# ---- Compilers

check "CUDA: NVRTC compiles all types without a message, to PTX without calls" python3 "$root/Tests/compile-cuda.py" "$nvrtc"
sed -n '1p; $p' "$work/log" | sed 's/^/      /'

# without_doubles TYPE: compiles for an OpenCL device without float64 arithmetic, and fails if a double occurs.
without_doubles() {
    "$clang" -x cl -cl-std=CL1.2 -target spir64 -Xclang -finclude-default-header -Xclang -cl-ext=-cl_khr_fp64 -Ucl_khr_fp64 \
        -Wall -Wextra -Wno-unused-function -Werror -O1 -S -emit-llvm -I"$kernels/include" -DDS_SAMPLE_TYPE="$1" \
        "$kernels/device_kernels.h" -o "$work/kernels.ll" || return
    ! grep -nw double "$work/kernels.ll"
}
for type in 0 2 3; do
    check "OpenCL: clang compiles element type $type for a device without doubles, and none occurs" without_doubles "$type"
done

# ---- The kernels on the device

check "the test builds" "$cc" -std=c11 -O2 "${warnings[@]}" -I"$prefix/include" "$root/Tests/c/device_opencl.c" -o "$work/device" \
    -L"$prefix/lib" -ldiffusion_scheduling -lOpenCL -lm
check "every scheduler in batches of all, with all types and sizes" "$work/device" "$prefix/include"
sed 's/^/      /' "$work/log"

# The CUDA side of the file, as C++ under sanitizers.
sanitizers=(-fsanitize=address,undefined -fno-sanitize-recover=all)
builds_for_cuda() {
    "$clang" -std=c11 -O1 "${sanitizers[@]}" "${warnings[@]}" -I"$prefix/include" -c "$root/Tests/c/device_opencl.c" -o "$work/device.o" || return
    "$clang" -std=c++17 -O1 "${sanitizers[@]}" -Wall -Wextra -Werror "$root/Tests/c/cuda_on_host.cpp" "$work/device.o" -fuse-ld=lld \
        -o "$work/cuda" -L"$prefix/lib" -ldiffusion_scheduling -lstdc++ -ldl -lm
}
mkdir "$work/programs"
check "CUDA on the host: the test builds" builds_for_cuda
check "CUDA on the host: every scheduler, with all types and small sizes, under sanitizers" \
    env CLANG="$clang" CUDA_ON_HOST="$work/programs" "$work/cuda" "$prefix/include" quick

# ---- The example

check "Examples/OpenCL: builds with its makefile" make -s -C "$root/Examples/OpenCL" CFLAGS="${warnings[*]}" OUT="$work/sample"
check "Examples/OpenCL: runs" "$work/sample"
sed 's/^/      /' "$work/log"

# says SENTENCE COMMAND...: passes if the command ends with exit status 1, without a signal, and prints the sentence.
says() {
    local status=0
    "${@:2}" >"$work/said" 2>&1 || status=$?
    cat "$work/said"
    [ "$status" -eq 1 ] && grep -qF "$1" "$work/said"
}
check "no OpenCL platform" says "no OpenCL platform is installed" env OCL_ICD_VENDORS="$work/nowhere" "$work/sample"
check "no kernels" says "$work/nowhere/device_table.h can't be read" "$work/sample" "$work/nowhere"
check "two folders: the usage" says "usage: " "$work/sample" "$work" "$work"
mkdir "$work/broken"
cp "$prefix/include/device_table.h" "$work/broken"
sed 's/DS_BARRIER();/DS_BARRIER/' "$kernels/device_kernels.h" >"$work/broken/device_kernels.h"
check "kernels that don't build: the compiler's log" says "error: " "$work/sample" "$work/broken"
mkdir "$work/old"
cat >"$work/old.c" <<'CODE'
unsigned ds_version(void);
unsigned ds_version(void) { return 99; }
CODE
check "a library with another version builds" "$cc" -shared -fPIC "$work/old.c" -o "$work/old.so"
check "another version of the library" says "the library has version 0.0.99" env LD_PRELOAD="$work/old.so" "$work/sample"

finish
