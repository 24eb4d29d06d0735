#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the files that pkg-config and CMake need to find the C library.
#
#     packaging/development-files.sh VERSION SONAME FOLDER [PREFIX LIBDIR]
#
# The files go below FOLDER, which holds the library. They name the paths PREFIX and LIBDIR. Without these arguments the files are
# relocatable: each finds <prefix>/lib and <prefix>/include from its own place, and pkg-config adds an rpath, because the loader
# doesn't search the library's folder.
set -euo pipefail
templates=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

version=$1 soname=$2 folder=$3 prefix=${4-} libdir=${5-}

# fill TARGET DEPTH VARIABLE: DEPTH leads from TARGET's folder to the prefix; VARIABLE names that folder in the file's own language.
fill() {
    local target=$folder/$1 from=${prefix:-$3/$2}
    mkdir -p "$(dirname "$target")"
    sed -e "s|@PREFIX@|$from|g; s|@LIBDIR@|${libdir:-$from/lib}|g; s|@VERSION@|$version|g; s|@SONAME@|$soname|g" \
        -e "s|@RPATH@|${rpath}|g" "$templates/${target##*/}.in" >"$target"
}

rpath=
# shellcheck disable=SC2016
if [ -z "$prefix" ]; then rpath='-Wl,-rpath,${libdir} '; fi
# shellcheck disable=SC2016
fill pkgconfig/diffusion_scheduling.pc ../.. '${pcfiledir}'
for file in DiffusionSchedulingConfig.cmake DiffusionSchedulingConfigVersion.cmake; do
    # shellcheck disable=SC2016
    fill cmake/DiffusionScheduling/$file ../../.. '${CMAKE_CURRENT_LIST_DIR}'
done
