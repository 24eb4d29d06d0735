#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs Examples/Consumer against a tagged repository of this checkout: a dependency by version accepts neither unsafe
# build flags nor files unknown to git.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

repository="$work/DiffusionScheduling"
mkdir -p "$repository" "$work/Consumer"
(cd "$root" && git ls-files -z --cached --others --exclude-standard -- Package.swift Sources Tests |
    while IFS= read -r -d '' file; do [ -f "$file" ] && printf '%s\0' "$file"; done | tar --null -T - -c) | tar -x -C "$repository"
git -C "$repository" init -q
git -C "$repository" add -A
git -C "$repository" -c user.name=test -c user.email=test@example.com commit -q -m "a release"
git -C "$repository" tag 0.1.0

cp -R "$root/Examples/Consumer/Package.swift" "$root/Examples/Consumer/Sources" "$work/Consumer/"
export DIFFUSION_SCHEDULING_REPOSITORY="file://$repository"
swift run --package-path "$work/Consumer" --quiet consumer
echo "check-consumer: 1 passed, 0 failed"
