#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks the wheel as users get it: its metadata, its installation into a bare environment, and its use from Python and C.
#
#     Tests/check-wheel.sh [WHEEL]
#
# Prints one line per check; ends with the number of failures, and fails if there are any.
# CC names another compiler, PYTHON another interpreter to install the wheel for.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

cc=${CC:-cc}
python=${PYTHON:-python3}
tools=$root/out/python/bin
warnings=(-Wall -Wextra -Wpedantic -Werror)
unset LD_LIBRARY_PATH LD_PRELOAD PYTHONPATH PYTHONHOME PKG_CONFIG_PATH CMAKE_PREFIX_PATH DIFFUSION_SCHEDULING_LIBRARY

wheels=("$root"/out/wheels/diffusion_scheduling-*.whl)
wheel=$(realpath "${1:-${wheels[0]}}")
check "out/wheels holds one wheel" test "${#wheels[@]}" -eq 1 -a -f "$wheel"

# ---- The file

auditwheel() { PATH="$tools:$PATH" "$tools/auditwheel" "$@"; }
names_a_manylinux_tag() {
    local tag
    tag=$(basename "$wheel" .whl) && tag=${tag##*-}
    [[ $tag == manylinux_* ]] && auditwheel show "$wheel" | tr -s '\n' ' ' | grep -F "following platform tag: \"$tag\""
}
check "auditwheel show names the manylinux tag of the file's name" names_a_manylinux_tag
sed -n 's/.*following platform tag: "\([^"]*\)".*/      \1/p' "$work/log"
check "twine check --strict" "$tools/twine" check --strict "$wheel"

mkdir "$work/unpacked"
"$tools/python" -m zipfile -e "$wheel" "$work/unpacked"
nothing_is_grafted() {
    ! find "$work/unpacked" -name '*.libs' -o -name '*omp*.so*' -o -name 'libswift*' | grep . || return
    find "$work/unpacked" -name '*.so*' -exec sh -c 'head -c 4 "$1" | grep -q ELF' - {} \; -printf '%f\n' | sort >"$work/libraries"
    printf '%s\n' _quick.abi3.so libdiffusion_scheduling.so.0 | diff - "$work/libraries"
}
check "the wheel holds its own library and module, and no others" nothing_is_grafted
has_the_licences() {
    local file
    for file in LICENSE NOTICE; do
        if [ -f "$root/$file" ]; then cmp "$root/$file" "$work"/unpacked/*.dist-info/licenses/$file || return; fi
    done
    grep -x 'License-Expression: Apache-2.0' "$work"/unpacked/*.dist-info/METADATA
}
check "the wheel names its licence and holds the repository's LICENSE and NOTICE" has_the_licences
versions_agree() {
    local version
    version=$(awk '/define DS_VERSION_(MAJOR|MINOR|PATCH)/ { v = v dot $3; dot = "." } END { print v }' \
        "$root/Sources/CDiffusionScheduling/include/diffusion_scheduling.h")
    grep -x "Version: $version" "$work"/unpacked/*.dist-info/METADATA || return
    grep -x "Version: $version" "$work"/unpacked/*/lib/pkgconfig/diffusion_scheduling.pc || return
    [ "$("$work/env/bin/python" -c 'import diffusion_scheduling as ds; print(ds.__version__)')" = "$version" ]
}

# ---- Python, in an environment without Swift

"$python" -m venv "$work/env"
# bare COMMAND...: runs a command with only the environment on PATH.
bare() { env PATH="$work/env/bin" "$@"; }
cd "$work"
check "pip install in a bare environment" bare pip install -q --disable-pip-version-check "$wheel"
if [ "$failed" -gt 0 ] && ! bare python -c 'import diffusion_scheduling' 2>/dev/null; then finish; fi
check "no Swift is on its PATH" bare python -c 'import shutil; assert shutil.which("swift") is None'
check "Python can load the module of quick steps" bare python -c 'import diffusion_scheduling._quick'
check "the wheel, the package, the header and the pkg-config file have one version" versions_agree

cat >"$work/loads.py" <<'END'
import diffusion_scheduling

names = {line.split()[-1].rsplit("/")[-1] for line in open("/proc/self/maps") if "/" in line}
assert any(name.startswith("libdiffusion_scheduling.so") for name in names), names
foreign = {name for name in names if name.startswith(("libswift", "libFoundation", "libomp", "libgomp", "libiomp"))}
assert not foreign, foreign
END
check "importing loads no Swift runtime and no OpenMP runtime" bare python "$work/loads.py"

cat >"$work/step.py" <<'END'
import sys

import numpy as np
from diffusion_scheduling import DDIMScheduler, runtime_description

scheduler = DDIMScheduler(clip_sample=False)
scheduler.set_timesteps(10)
t = scheduler.timesteps[2]
x, e = np.random.default_rng(0).standard_normal((2, 4, 3, 512, 512), np.float32)
now, following = (float(scheduler.alphas_cumprod[i]) for i in (t, t - 100))
clean = (x.astype(float) - (1 - now) ** 0.5 * e) / now**0.5
expected = following**0.5 * clean + (1 - following) ** 0.5 * e
np.testing.assert_allclose(scheduler.step(e, t, x).prev_sample, expected, rtol=1e-6, atol=1e-6)
print(runtime_description())
assert "alone" not in sys.argv or "caller's thread" in runtime_description(), runtime_description()
END
check "a step follows DDIM's formula" bare python "$work/step.py"

readme_runs() {
    { echo 'def model(x, t): return 0.1 * x'; sed -n '/^```python/,/^```/ { /^```/d; p; }; /prev_sample/q' "$root/bindings/python/README.md"; } \
        >"$work/readme.py"
    grep -q prev_sample "$work/readme.py" && bare python "$work/readme.py"
}
check "the lines of bindings/python/README.md run" readme_runs

# ---- Python in a root that contains only the interpreter, its libraries and the installed wheel

# copy FILE...: copies files and the shared libraries that they need into the bare root.
copy() {
    local file
    for file in "$@" $(ldd "$@" 2>/dev/null | grep -oE '/[^ :]+\.so[^ :]*' | sort -u); do
        case $file in "$work"/*) continue ;; esac
        if [ ! -e "$work/root$file" ]; then mkdir -p "$work/root$(dirname "$file")" && cp -L "$file" "$work/root$file"; fi
    done
}
# enter PROGRAM [ARGUMENTS...]: runs a program inside the bare root.
enter() {
    local -a namespace=()
    if [ "$(id -u)" != 0 ]; then namespace=(unshare -r); fi
    PYTHONPATH=/site ${namespace[@]+"${namespace[@]}"} chroot "$work/root" "$@"
}
# make_root: puts the interpreter and its standard library at their usual paths, and the installed packages into /site.
make_root() {
    local standard
    standard=$("$work/env/bin/python" -c 'import os; print(os.path.dirname(os.__file__))')
    mkdir -p "$work/root$standard" "$work/root/tmp"
    tar -C "$standard" --exclude=./site-packages --exclude=./dist-packages --exclude=./test --exclude=./config-* --exclude=__pycache__ -c . |
        tar -x -C "$work/root$standard"
    cp -r "$work"/env/lib/python*/site-packages "$work/root/site"
    cp "$work/step.py" "$work/root/step.py"
    mapfile -t extensions < <(find "$work/root$standard/lib-dynload" "$work/root/site" -name '*.so*' -type f)
    copy "$binary" "${extensions[@]}"
    enter "$binary" -c pass
}
c_program_in_root() {
    "$cc" "$root/Examples/C/sample.c" -I"$work/root/site/diffusion_scheduling/include" -o "$work/root/sample" \
        -L"$work/root/site/diffusion_scheduling/lib" -Wl,-rpath,/site/diffusion_scheduling/lib -ldiffusion_scheduling -lm || return
    enter /sample
}
binary=$("$work/env/bin/python" -c 'import os, sys; print(os.path.realpath(sys.executable))')
if make_root >"$work/log" 2>&1; then
    check "a root without Swift and without OpenMP runtimes" \
        sh -c '! find "$1" -name "libswift*" -o -name "lib[gi]*omp*.so*" | grep .' - "$work/root"
    check "a step in that root follows DDIM's formula, on the caller's thread" \
        enter "$binary" /step.py alone
    check "a C program runs in that root" c_program_in_root
else
    echo "skip  this machine can't make a root: $(tail -n 1 "$work/log")"
fi

# ---- C programs, against the installed wheel

folder() { "$work/env/bin/python" -c "import diffusion_scheduling as ds; print(ds.get_$1())"; }
include=$(folder include) library_folder=$(folder lib_dir) library=$(folder library)
cmake_folder=$(folder cmake_dir) pkgconfig_folder=$(folder pkgconfig_dir)
sample=$root/Examples/C/sample.c
export PKG_CONFIG_PATH=$pkgconfig_folder

has_the_kernels() { cmp "$include/device_table.h" "$root/Sources/DeviceKernels/include/device_table.h" && cmp "$include/device_kernels.h" "$root/Sources/DeviceKernels/device_kernels.h"; }
check "the wheel holds the kernels for devices beside the header" has_the_kernels

# uses_the_wheel PROGRAM: passes if the program loads the installed library and runs.
uses_the_wheel() {
    local loaded
    loaded=$(ldd "$1" | awk '/libdiffusion_scheduling/ { print $3 }') || return
    [ "$(realpath "$loaded")" = "$(realpath "$library")" ] && "$1"
}

check "the library's file name is its soname" \
    sh -c 'readelf -d "$1" | grep SONAME | grep -F "[$(basename "$1")]"' - "$library"
check "cc with -I, -L and an rpath: builds" "$cc" -std=c11 "${warnings[@]}" -I"$include" "$sample" -o "$work/plain" \
    -L"$library_folder" -Wl,-rpath,"$library_folder" -ldiffusion_scheduling -lm
check "cc with -I, -L and an rpath: runs" uses_the_wheel "$work/plain"
for linker in bfd gold lld mold; do
    if "$cc" -fuse-ld=$linker -Wl,--version -o /dev/null >"$work/log" 2>&1; then
        check "cc with ld.$linker" "$cc" -fuse-ld=$linker -I"$include" "$sample" -o "$work/$linker" -L"$library_folder" \
            -ldiffusion_scheduling -lm
    fi
done
check "the library as a file: builds" "$cc" -I"$include" "$sample" "$library" -Wl,-rpath,"$library_folder" -lm -o "$work/file"
check "the library as a file: runs" uses_the_wheel "$work/file"

check "pkg-config: Examples/C builds with its makefile" \
    make -s -C "$root/Examples/C" CFLAGS="${warnings[*]}" OUT="$work/pkg-config"
check "pkg-config: runs" uses_the_wheel "$work/pkg-config"
moved() {
    cp -r "$library_folder/.." "$work/moved"
    PKG_CONFIG_PATH=$work/moved/lib/pkgconfig make -s -C "$root/Examples/C" OUT="$work/pkg-config-moved" || return
    readelf -d "$work/pkg-config-moved" | grep -E "RUNPATH|RPATH" | grep -F "$work/moved/lib" && "$work/pkg-config-moved"
}
check "pkg-config: the files may be moved" moved

mkdir "$work/project"
cat >"$work/project/CMakeLists.txt" <<'END'
cmake_minimum_required(VERSION 3.15)
project(sample C)
find_package(DiffusionScheduling ${REQUESTED} REQUIRED)
find_package(DiffusionScheduling REQUIRED)
add_executable(sample ${SOURCE})
target_link_libraries(sample PRIVATE DiffusionScheduling::DiffusionScheduling m)
if(TARGET DiffusionScheduling::static)
  message(FATAL_ERROR "the wheel has a static library")
endif()
END
cmake=$(command -v cmake || echo "$tools/cmake")
# configures NAME [OPTIONS...]
configures() { "$cmake" -S "$work/project" -B "$work/build-$1" -D SOURCE="$sample" -D CMAKE_C_COMPILER="$cc" "${@:2}"; }
with_cmake() { configures "$@" && "$cmake" --build "$work/build-$1" && uses_the_wheel "$work/build-$1/sample"; }
check "CMake: with DiffusionScheduling_DIR" with_cmake dir -D DiffusionScheduling_DIR="$cmake_folder"
check "CMake: with get_cmake_dir() in CMAKE_PREFIX_PATH" with_cmake cmake-dir -D CMAKE_PREFIX_PATH="$cmake_folder"
check "CMake: with the package in CMAKE_PREFIX_PATH" with_cmake prefix -D CMAKE_PREFIX_PATH="$(dirname "$library_folder")"
check "CMake: a request for 0.1 is met" with_cmake version -D DiffusionScheduling_DIR="$cmake_folder" -D REQUESTED=0.1
refuses() { ! configures "refused-$1" -D DiffusionScheduling_DIR="$cmake_folder" -D REQUESTED="$1"; }
for version in 0.99 1.0 0.0...0.0.9; do
    check "CMake: a request for $version is refused" refuses "$version"
done
lacks_static() {
    ! configures static -D DiffusionScheduling_DIR="$cmake_folder" -D REQUESTED="0.1;COMPONENTS;static" >"$work/refusal" 2>&1 || return
    tr -s ' \n' ' ' <"$work/refusal" | grep -F "Python's wheel contains the shared library only"
}
check "CMake: a request for the component static is refused" lacks_static

finish
