#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the command-line tool, which `make tool` builds, with the arguments that people type, and compares its output.
#
#     Tests/check-tool.sh [TOOL]
set -uo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
tool=$(realpath "${1:-$root/out/bin/diffusion-scheduling}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/sdxl/scheduler"
cp "$root/Tests/HubConfigurations/stable-diffusion-xl-base-1.0/scheduler_config.json" "$work/sdxl/scheduler"
cp -r "$root/Tests/HubConfigurations/flux.1-dev" "$work/flux"
cd "$work"
passed=0 failed=0

# expect STATUS PATTERN ARGUMENT...: the exit status, and a regular expression that matches a line of either output; '': no output.
expect() {
    local status=$1 pattern=$2
    shift 2
    "$tool" "$@" >output 2>&1 <&0
    local actual=$?
    if [ $actual = "$status" ] && { if [ -n "$pattern" ]; then grep -qE -- "$pattern" output; else [ ! -s output ]; fi; }; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'check-tool: %s\n  exit status %s, expected %s and a line with %s:\n' "$*" $actual "$status" "$pattern"
        sed 's/^/  /' output | head -20
    fi
}

# holds TEXT: counts the last command's status as a check. TEXT describes the failure.
holds() {
    if [ $? = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "check-tool: $1"; fi
}

expect 0 '^ +0 +831 +5\.90645 +0\.166931 x +x - 2\.99933 e$' plan sdxl --steps 6
expect 0 '^ +0 +831 +5\.90645' plan sdxl/scheduler/scheduler_config.json --steps 6
expect 0 '^ +1 +837 +6\.08216 +3\.43201 x - 2\.47394 e - 0\.147956 s0 +s0 = ' plan "DPM++ 2M Karras" --model sdxl --steps 6
expect 0 '^ +0 +801 .* s0 = e$' plan deis:rho2Heun --model sdxl --steps 4
expect 0 'draws noise' plan DDIMScheduler --option eta=0.5
expect 0 '^ +2 ' plan euler --sigmas 10 5 1 0
expect 0 '^ +1 +400 ' plan DDIMScheduler --timesteps 900 400
expect 0 '^ +0 +1000 +1 ' plan flux --mu 1.15 --levels simple
expect 0 '"evaluations"' plan sdxl --format json
expect 0 '^ +11 .*0\.0291675' compare sdxl "DPM++ 2M Karras" deis:tab3 --steps 12 --output levels.svg
head -c 200 levels.svg | grep -q '<svg '
holds "levels.svg isn't an SVG file"
expect 0 'sdxl \(Euler\)' compare sdxl "euler kl_optimal" --steps 12 --output levels.png
[ "$(head -c 4 levels.png | tail -c 3)" = PNG ]
holds "levels.png isn't a PNG file"
expect 0 '"use_karras_sigmas": true' convert sdxl "DPM++ 2M Karras"
expect 0 '"flow_shift": 3' convert flux UniPC
expect 0 '' convert flux UniPC --set use_dynamic_shifting=false --set flow_shift=2 --output tuned
expect 0 '^LCM has no use for final_sigmas_type, use_karras_sigmas\.' convert - LCM <<<'{"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min", "sigma_min": null, "use_karras_sigmas": true}'
expect 0 'UniPCMultistepScheduler, fine' check tuned sdxl flux DDIMScheduler
expect 0 '^-: DDIMScheduler, fine; it has no use for colour' check - <<<'{"_class_name": "DDIMScheduler", "colour": 1}'
expect 1 '^-: beta_start is 2\.0, but must be at least 0 and less than 1$' check - <<<'{"_class_name": "DDIMScheduler", "beta_start": 2}'
expect 1 'malformed JSON at line 1, column 1' check - <<<'nonsense'
expect 0 '' noise --seed 42 --shape 1 4 8 8 --output noise.npy
[ "$(wc -c <noise.npy)" = $((128 + 4 * 256)) ] && [ "$(od -An -tf4 -j128 -N4 noise.npy | tr -d ' ')" = 1.9269153 ]
holds "noise.npy doesn't hold the numbers of torch.manual_seed(42)"
expect 0 '^DPM\+\+ 2M, dpmpp_2m$' list samplers
expect 0 '^align_your_steps_svd$' list
# Refusals.
expect 1 'scheduler Eulerr is not supported: there is no such name; nearest is Euler$' plan Eulerr
expect 1 'nearest is DPMSolverSinglestepScheduler' plan "DPM fast"
expect 1 'number of steps is 0, but must be from 1 to 100000' plan sdxl --steps 0
expect 1 'eta is given, but must be one of the options s_churn' plan sdxl --option eta=1
expect 1 './none: No such file or directory' plan ./none
expect 1 'flow matching, which LMSDiscreteScheduler' convert flux LMS
expect 64 'levels is best, but must be one of karras' plan sdxl --levels best
expect 64 'exclude one another' plan sdxl --levels karras --sigmas 1 0
expect 64 'must end with .svg or .png' compare sdxl --output levels.gif
expect 64 'shape must have sizes' noise --shape 1048576 1048576
expect 64 'Missing expected argument' plan
expect 1 "can't write none/levels.png" compare sdxl --output none/levels.png
expect 0 'EXAMPLES:' help compare
expect 0 'complete' --generate-completion-script bash

echo "check-tool: $passed passed, $failed failed"
[ $failed = 0 ]
