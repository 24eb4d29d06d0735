#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs commands one after the other, then prints the seconds that each took and whether it failed.
#
#     Tests/timed.sh TITLE PART...
#
# A part is "NAME: COMMAND" for bash. "NAME: && COMMAND" is skipped if the last part without && failed. "NAME: & COMMAND" runs beside
# the parts after it, for commands that use few cores. Its output follows the output of the last part. Other parts run even if one
# before them failed. The last line names the parts that failed; the exit status is 1 if any did.
set -uo pipefail

title=$1
shift
table=() failed=() succeeded=true beside=()
begin=$SECONDS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo; echo "$title: interrupted"; kill $(jobs -p) 2>/dev/null; exit 130' INT TERM

# entry NAME STATUS SECONDS: adds a part's line to the table.
entry() {
    local verdict=ok
    if [ "$2" -ne 0 ]; then verdict=FAILED failed+=("$1"); fi
    table+=("$(printf '%6d s  %-7s  %s' "$3" $verdict "$1")")
}

for part in "$@"; do
    name=${part%%: *} command=${part#*: }
    start=$SECONDS
    if [[ $command == "& "* ]]; then
        log=$work/${#beside[@]}
        { bash -c "${command#& }" >"$log" 2>&1; echo "$? $((SECONDS - start))" >"$log.result"; } &
        beside+=("$name: ${command#& }")
        continue
    fi
    depends=false
    if [[ $command == "&& "* ]]; then
        depends=true
        command=${command#&& }
        if ! $succeeded; then
            table+=("$(printf '%6s    skipped  %s' - "$name")")
            continue
        fi
    fi
    printf '\n---- %s: %s\n' "$name" "$command"
    bash -c "$command"
    status=$?
    if ! $depends; then [ $status -eq 0 ] && succeeded=true || succeeded=false; fi
    entry "$name" $status $((SECONDS - start))
done

wait
for i in "${!beside[@]}"; do
    printf '\n---- %s\n' "${beside[i]}"
    cat "$work/$i"
    read -r status seconds <"$work/$i.result"
    entry "${beside[i]%%: *}" "$status" "$seconds"
done

printf '\n%s:\n' "$title"
printf '%s\n' "${table[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    list=$(printf ', %s' "${failed[@]}")
    echo "$title: FAILED in $((SECONDS - begin)) s: ${list:2}"
    exit 1
fi
echo "$title: everything passed in $((SECONDS - begin)) s"
