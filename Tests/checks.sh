# SPDX-License-Identifier: Apache-2.0
# For scripts to source: a working folder, removed when they end, and counted checks.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0
failed=0

# check NAME COMMAND...: passes if the command succeeds; otherwise shows the end of its output. The command is part of a condition,
# where bash doesn't stop at a failure by itself, so checked functions return at the first failure.
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "ok    $name ($((SECONDS - start)) s)"
        passed=$((passed + 1))
    else
        echo "FAIL  $name"
        tail -n 60 "$work/log" | sed 's/^/      /'
        failed=$((failed + 1))
    fi
}

# finish [TITLE]: prints the counts and ends the script, with failure if a check has failed.
finish() {
    echo "${1:-$(basename "$0" .sh)}: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
