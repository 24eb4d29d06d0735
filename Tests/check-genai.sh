#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Checks Examples/OpenVINOGenAI: pictures by these schedulers in openvino.genai's pipeline, beside the engine's own, and the
# messages for missing parts.
#
#     Tests/check-genai.sh PYTHON FOLDER
#
# PYTHON is the path of an interpreter with the wheels of openvino.genai. FOLDER receives the model and the pictures. The C library
# is in out/lib.
# Prints the example's tables and one line per check; ends with the number of failures, and fails if there are any.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

python=$1 folder=$2
example=$root/Examples/OpenVINOGenAI
unset LD_LIBRARY_PATH LD_PRELOAD OPENVINO_TOKENIZERS_PATH_GENAI
mkdir -p "$folder"

check "make install" make -s -C "$root" install-library PREFIX="$work/prefix"
export PKG_CONFIG_PATH=$work/prefix/lib/pkgconfig LD_LIBRARY_PATH=$work/prefix/lib
check "make_model.py makes a model" "$python" "$example/make_model.py" "$folder/model"
check "the example builds with its makefile" make -s -C "$example" PYTHON="$python" OUT="$work/pictures" \
    CXXFLAGS="-Wall -Wextra -Wpedantic -Wconversion -Werror"
check "pictures, and their differences from the engine's" "$work/pictures" "$folder/model" "$folder"
cat "$work/log"
picture_count() { [ "$(find "$folder" -name '*.ppm' -size +100k | wc -l)" -ge 8 ]; }
check "every scheduler's picture is written" picture_count
check "one picture by a sampler's name" "$work/pictures" "$folder/model" "$folder" "deis:tab3"

# says SENTENCE COMMAND...: passes if the command ends with exit status 1 or 2, without a signal, and prints the sentence.
says() {
    local status=0
    "${@:2}" >"$work/said" 2>&1 || status=$?
    cat "$work/said"
    [ "$status" -eq 1 ] || [ "$status" -eq 2 ] || return
    grep -qF "$1" "$work/said"
}
pictures() { "$work/pictures" "$@"; }
check "no arguments: the usage" says "usage: pictures MODEL FOLDER" pictures
check "a misspelt scheduler" says "DPM++ 4M Karras" pictures "$folder/model" "$folder" "DPM++ 4M Karras"
cp -r "$folder/model" "$work/without"
rm -r "$work/without/scheduler"
check "a model without a scheduler" says "$work/without" pictures "$work/without" "$folder"
check "a model that isn't there" says "$work/nowhere" pictures "$work/nowhere" "$folder"
"$python" -m venv --without-pip "$work/bare"
check "no wheel" says "pip install openvino_genai" make -s -C "$example" PYTHON="$work/bare/bin/python" OUT="$work/none"

# Libraries loaded before the engine replace its version and functions.
cat >"$work/version.c" <<'END'
struct version {
    const char *number, *description;
};
struct version get_version(void) { return (struct version){"2026.3.0.0-3000-0123456789a", "another version"}; }
END
cat >"$work/order.c" <<'END'
void function(void *self, unsigned long index) __asm__("_ZN2ov5genai10IScheduler15set_begin_indexEm");
void function(void *self, unsigned long index) { (void)self, (void)index; }
END
for name in version order; do
    check "a library with another $name builds" "${CC:-cc}" -shared -fPIC "$work/$name.c" -o "$work/$name.so"
done
check "another version of the engine" says "version 2026.3.0.0-3000-0123456789a, but schedulers from outside need" \
    env LD_PRELOAD="$work/version.so" "$work/pictures" "$folder/model" "$folder"
check "another class IScheduler" says "isn't at its place" \
    env LD_PRELOAD="$work/order.so" "$work/pictures" "$folder/model" "$folder"

finish
