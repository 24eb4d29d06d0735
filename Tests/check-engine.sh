#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the engine example, which `make engine` builds, with the arguments that people type, and compares its samples and messages.
#
#     Tests/check-engine.sh [ENGINE]
#
# Compares samples with each other, with the digits, and with samples that diffusers drew when the network was trained.
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
engine=$(realpath "${1:-$root/Examples/Engine/.build/release/engine}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$root"
model=Examples/Engine/Model
passed=0 failed=0

# expect STATUS PATTERN ARGUMENT...: the exit status, and a regular expression that matches a line of either output.
expect() {
    local status=$1 pattern=$2
    shift 2
    "$engine" "$@" --output "$work/pictures" >"$work/output" 2>&1
    local actual=$?
    if [ $actual = "$status" ] && grep -qE -- "$pattern" "$work/output"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'check-engine: %s\n  exit status %s, expected %s and a line with %s:\n' "$*" $actual "$status" "$pattern"
        sed 's/^/  /' "$work/output" | head -20
    fi
}

# holds TEXT: counts the last command's status as a check. TEXT describes the failure.
holds() {
    if [ $? = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "check-engine: $1"; fi
}

# sample FILE ARGUMENT...: writes samples to $work/FILE.npy.
sample() {
    local file=$1
    shift
    expect 0 '^Wrote .*samples.png$' sample "$@" --samples "$work/$file.npy"
}

# difference FILE FILE: the root mean square of the differences. A second file digits.bin stands for the digits themselves.
difference() {
    python3 - "$root/Examples/Demo/Sources/Digits/Data/digits.bin" "$@" <<'PYTHON'
import sys
from array import array

def numbers(path, count=None):
    content = open(path, "rb").read()
    if path.endswith(".bin"):
        return [byte / 8 - 1 for byte in content[:count]]
    return array("f", content[10 + content[8] + 256 * content[9]:])

first = numbers(sys.argv[2])
second = numbers(sys.argv[1] if sys.argv[3] == "digits.bin" else sys.argv[3], len(first))
assert len(first) == len(second) > 0, (len(first), len(second))
print((sum((a - b) ** 2 for a, b in zip(first, second)) / len(first)) ** 0.5)
PYTHON
}

# below FIRST SECOND: passes if the first number is less; fails for NaN.
below() { python3 -c 'import sys; sys.exit(not float(sys.argv[1]) < float(sys.argv[2]))' "$1" "$2"; }

# ---- Samples

sample first --count 2 --guidance 2
cp "$work/pictures/samples.png" "$work/first.png"
sample second --count 2 --guidance 2
cmp "$work/first.npy" "$work/second.npy" && cmp "$work/first.png" "$work/pictures/samples.png"
holds "the same seed gives other pictures"
sample other --count 2 --guidance 2 --seed 1
below 0.1 "$(difference "$work/first.npy" "$work/other.npy")"
holds "another seed gives the same pictures"

sample ours --count 1 --guidance 2
error=$(difference "$work/ours.npy" $model/samples.npy)
below "$error" 1e-4
holds "diffusers' samples are $error away, RMSE, instead of less than 0.0001"

sample one --count 4 --guidance 1
sample none --count 4
error=$(difference "$work/one.npy" "$work/none.npy")
below "$error" 1e-5
holds "guidance of 1 differs from no guidance by $error"

sample reference --sampler DDIM --steps 200
sample dpm --sampler "DPM++ 2M Exponential" --steps 10
sample ddim --sampler DDIM --steps 10
near=$(difference "$work/dpm.npy" "$work/reference.npy") far=$(difference "$work/ddim.npy" "$work/reference.npy")
below "$near" "$far"
holds "10 steps of DPM-Solver++ are $near from 200 of DDIM, 10 of DDIM are $far"

for name in Euler "Euler a" Heun LMS "DPM2 Karras" "DPM++ 2M Karras" "DPM++ 2M SDE Karras" "DPM++ SDE" UniPC "DEIS tAB3" "DEIS rho3Kutta" \
    PLMS tcd LCM sa_solver "euler kl_optimal" DPMSolverSinglestepScheduler; do
    sample named --sampler "$name" --steps 8 --count 1 --guidance 1.5
    below "$(difference "$work/named.npy" "$work/ours.npy")" 1.5
    holds "$name gives no pictures"
done

# ---- Image-to-image, inversion, measurements

expect 0 'strength 0.00: RMSE 0.0000' edit --strength 0 --samples "$work/same.npy"
[ "$(difference "$work/same.npy" digits.bin)" = 0.0 ]
holds "a strength of 0 doesn't return the digits"
expect 0 '^Wrote .*edited.png$' edit --strength 0.025 --samples "$work/near.npy"
error=$(difference "$work/near.npy" digits.bin)
below 0 "$error" && below "$error" 0.1
holds "a strength near 0 moves the digits by $error"
expect 0 'strength 1.00' edit --strength 0.5 1 --digits 3 8 --classes 8 3 --guidance 2 --sampler "Euler a"

expect 0 '^DPM-Solver.*0\.00' invert --steps 50
below "$(awk '/^DPM-Solver/ { print $(NF - 1) }' "$work/output")" 0.005
holds "DPM-Solver's inversion has a greater error than 0.005"

expect 0 '^the exact denoiser' measure
below "$(awk '/^the network, no guidance/ { print $5 }' "$work/output")" 0.2
holds "the Fréchet distance isn't less than 0.2"
# column NUMBER: the greatest number in a column of the table of times; nan unless each of seven batch sizes has a number there.
column() {
    awk -v c="$1" '
        /^ *[0-9]+ +[0-9.]+ / { rows++; if ($c !~ /^[0-9.]+$/) rows = 8; if ($c > greatest) greatest = $c }
        END { print rows == 7 ? greatest : "nan" }' "$work/output"
}
below "$(column 8)" 1
holds "the scheduler's share isn't less than 1 %"
below "$(awk '/^ *64 / { print $12 }' "$work/output")" 1
holds "the scheduler's share with its plan isn't less than 1 % in a batch of 64"
below 0 "$(column 5)" && below 0 "$(column 14)"
holds "there are no times with a pass per tensor operation"
grep -qE "samples are the library's: they differ by at most [0-9]+ % of float32's bound" "$work/output"
holds "the samples with a pass per tensor operation aren't compared"
expect 0 'differ by at most [0-9]+ % of float32' measure --steps 10 --sampler "DPM++ 2M Karras"
expect 0 '^Passes are written for DPM-Solver' measure --steps 4 --sampler Euler
grep -qE '^ *64 .* - .* -$' "$work/output"
holds "Euler's table has passes"

# ---- Refusals

expect 1 "libopenvino_c, isn't in $work/none: make engine installs it" sample --openvino "$work/none"
mkdir -p "$work/stub" "$work/text"
echo text >"$work/text/libopenvino_c.so.1"
expect 1 "OpenVINO's library can't be opened: .*libopenvino_c.so.1" sample --openvino "$work/text"
stub() {
    printf '%s\n' 'struct version { const char *number, *description; };' \
        "int ov_get_openvino_version(struct version *v) { v->number = \"$1-1-test\"; return 0; }" >"$work/stub.c"
    ${CC:-cc} -shared -fPIC -o "$work/stub/libopenvino_c.so.1" "$work/stub.c"
}
stub 2027.1.0
expect 1 'is 2027.1.0, but must be 2026$' sample --openvino "$work/stub"
stub 2026.0.0
expect 1 "can't be opened: ov_version_free isn't in the library" sample --openvino "$work/stub"

# broken: copies the model folder to $work/model, to be damaged.
broken() { rm -rf "$work/model" && cp -r $model "$work/model"; }
for file in model_index.json unet/model.onnx unet/config.json scheduler/scheduler_config.json; do
    broken
    rm "$work/model/$file"
    expect 1 "the model folder .*/model has no $file" sample --model "$work/model"
done
expect 1 'the model folder .*/nowhere has no model_index.json' sample --model "$work/nowhere"
broken
head -c 100000 $model/unet/model.onnx >"$work/model/unet/model.onnx"
expect 1 "unet/model.onnx can't be read: " sample --model "$work/model"
echo nonsense >"$work/model/unet/model.onnx"
expect 1 "unet/model.onnx can't be read: " sample --model "$work/model"
LC_ALL=C sed 's/timestep/tempstep/g' $model/unet/model.onnx >"$work/model/unet/model.onnx"
expect 1 'unet/model.onnx has no input timestep' sample --model "$work/model"
broken
sed -i 's/"sample_size": 8/"sample_size": 7/' "$work/model/unet/config.json"
expect 1 "doesn't take samples of 1×7×7" sample --model "$work/model"
sed -i 's/"sample_size": 7/"sample_size": 0/' "$work/model/unet/config.json"
expect 1 'sample_size from 1 to' sample --model "$work/model"
echo '{}' >"$work/model/unet/config.json"
expect 1 'must have the numbers sample_size' sample --model "$work/model"
broken
echo '{' >"$work/model/scheduler/scheduler_config.json"
expect 1 'malformed JSON' sample --model "$work/model"
echo '{"_class_name": "EulerScheduler"}' >"$work/model/scheduler/scheduler_config.json"
expect 1 'scheduler EulerScheduler is not supported' sample --model "$work/model"

expect 1 '^Error: --classes has 10, but the model.s classes are from 0 to 9$' sample --classes 3 10
expect 1 'number of steps is 0, but must be from 1 to' sample --steps 0
expect 1 'number of steps is 1000000, but must be from 1 to' sample --steps 1000000
expect 1 'guidance scale is nan, but must be finite' sample --guidance nan
expect 1 'guidance rescale is 2\.0, but must be from 0 to 1' sample --guidance 2 --rescale 2
expect 1 'scheduler Eulerr is not supported: there is no such name; nearest is Euler$' sample --sampler Eulerr
expect 1 '^Error: DPMSolverMultistepInverseScheduler leads from pictures to noise' sample --sampler DPMSolverMultistepInverseScheduler
expect 1 '^Error: --digits has 1797, but must have numbers from 0 to 1796$' edit --digits 1797
expect 1 '^Error: --classes has 2 numbers, but must have one, or 3' edit --digits 1 2 3 --classes 1 2
expect 1 "/dev/null/x.npy can't be written" sample --samples /dev/null/x.npy
expect 64 'strength has 1.5, but must have numbers from 0 to 1' edit --strength 1.5
expect 64 'count is 0, but must be from 1 to 1000' sample --count 0
expect 64 'Unknown option' sample --speed 3
expect 64 'invalid for .--seed' sample --seed=-1
"$engine" sample --output /dev/null/x >"$work/output" 2>&1
[ $? = 1 ] && grep -q "/dev/null/x" "$work/output"
holds "a folder that can't be made isn't refused: $(cat "$work/output")"

echo "check-engine: $passed passed, $failed failed"
[ $failed = 0 ]
