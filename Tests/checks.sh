# SPDX-License-Identifier: Apache-2.0
# For the scripts that source it: a folder for their work, which goes when they end, and checks that are counted.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0
failed=0

# check NAME COMMAND...: passes if the command succeeds; shows the end of what it printed if it doesn't. The command is part of a
# condition, where bash doesn't stop at a failure by itself: functions that are checked return at the first one.
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

# finish [TITLE]: prints the counts and ends the script, which fails if a check has.
finish() {
    echo "${1:-$(basename "$0" .sh)}: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
