#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs commands one after the other, then prints the seconds that each took and whether it failed.
#
#     Tests/timed.sh TITLE PART...
#
# A part is "NAME: COMMAND" for bash. "NAME: && COMMAND" is skipped if the last part without && failed. Other parts run whatever
# failed before them. The last line names the parts that failed; the exit status is 1 if any did.
set -uo pipefail

title=$1
shift
table=() failed=() succeeded=true
begin=$SECONDS
trap 'echo; echo "$title: interrupted"; exit 130' INT TERM
for part in "$@"; do
    name=${part%%: *} command=${part#*: }
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
    start=$SECONDS
    if bash -c "$command"; then verdict=ok; else verdict=FAILED failed+=("$name"); fi
    if ! $depends; then [ $verdict = ok ] && succeeded=true || succeeded=false; fi
    table+=("$(printf '%6d s  %-7s  %s' $((SECONDS - start)) $verdict "$name")")
done

printf '\n%s:\n' "$title"
printf '%s\n' "${table[@]}"
if [ ${#failed[@]} -gt 0 ]; then
    list=$(printf ', %s' "${failed[@]}")
    echo "$title: FAILED in $((SECONDS - begin)) s: ${list:2}"
    exit 1
fi
echo "$title: everything passed in $((SECONDS - begin)) s"
