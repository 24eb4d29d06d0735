#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the static C library: one object with Swift's runtime inside, which defines only the header's functions.
#
#     packaging/static-library.sh OBJECTS HEADER LIBRARY
#
# OBJECTS is a file that lists the shared library's objects, LIBRARY the archive to make. SWIFT names another Swift.
#
# A program may contain its own Swift runtime. Two properties keep the two apart:
# - Symbols are local, except the header's functions. Section groups are dissolved, because linkers merge groups by name.
# - Swift finds types and conformances in sections named swift5_*, whose bounds are symbols that linkers make for whole programs.
#   The sections get the prefix ds_, so each runtime finds only its own types.
set -euo pipefail

objects=$1 header=$2 library=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

resources=$("${SWIFT:-swift}" -print-target-info -static-stdlib | sed -n 's/.*"runtimeResourcePath": "\(.*\)".*/\1/p')
runtime=$resources/linux
start=$runtime/$(uname -m)/swiftrt.o
if [ ! -f "$start" ]; then
    echo "static-library: $start is missing: a Swift toolchain with static libraries is needed" >&2
    exit 1
fi

# The link keeps what the header's functions need. libstdc++, libm and libc stay outside, for the program's link.
mapfile -t functions < <(grep -oE '\bds_[a-z0-9_]+\(' "$header" | tr -d '(' | sort -u)
printf '%s\n' "${functions[@]}" >"$work/functions"
mapfile -t inputs <"$objects"
ld.bfd -r --gc-sections --force-group-allocation "${functions[@]/#/--undefined=}" -o "$work/linked.o" \
    "$start" "${inputs[@]}" --start-group "$runtime"/libswift*.a "$runtime/libdispatch.a" "$runtime/libBlocksRuntime.a" --end-group

options=()
while IFS= read -r section; do
    options+=(--rename-section "$section=ds_$section"
        --redefine-sym "__start_$section=__start_ds_$section" --redefine-sym "__stop_$section=__stop_ds_$section")
done < <(readelf -SW "$work/linked.o" | grep -oE ' swift5_[a-z0-9_]+' | tr -d ' ' | sort -u)

# Swift's .rodata sections are marked writable, and would make a program's constants writable. Linkers protect .data.rel.ro.
# Swift's drivers read .swift1_autolink_entries, and would link libraries that are already inside.
objcopy --strip-unneeded --keep-global-symbols="$work/functions" "${options[@]}" --rename-section .rodata=.data.rel.ro \
    --remove-section .swift1_autolink_entries --remove-section .swift_modhash \
    "$work/linked.o" "$work/diffusion_scheduling.o"
ar rcsD "$work/library.a" "$work/diffusion_scheduling.o"
install -m 644 "$work/library.a" "$library"
