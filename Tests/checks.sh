# SPDX-License-Identifier: Apache-2.0
# Scripts source this file. It makes a working folder, which is removed when the script ends, and counts checks.

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

passed=0
failed=0

# check NAME COMMAND...: passes if the command succeeds; otherwise shows the end of its output. The command is part of a condition,
# where bash ignores set -e, so checked functions return at the first failure.
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
