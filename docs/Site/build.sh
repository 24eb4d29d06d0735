#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the site of the documentation: SITE/swift (DocC), SITE/c (Doxygen), SITE/python (pdoc), and the documents.
# Warnings of these tools, dead links and public symbols without a sentence, their errors or, where they compute, a formula are errors.
#
#     docs/Site/build.sh PYTHON SITE [BASE]
#
# PYTHON  an interpreter with pdoc, markdown-it-py and numpy
# BASE    the path that the site will be served at; without it, a server's root. DocC's pages need a server, such as
#         python3 -m http.server -d SITE
#
# SWIFT names another Swift.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=$1 site=$2 base=${3:-}
base=${base#/} base=${base%/}
swift=${SWIFT:-swift}
work=out/docs-work
rm -rf "$site" "$work"
mkdir -p "$site" "$work/symbols" "$work/python/diffusion_scheduling"

echo "-- Swift"
# The toolchain has docc, and the tests use the same debug build. swift-docc-plugin would do the same, but as a dependency that the
# package would have to name and users to download.
"$swift" build --product DiffusionSchedulingC
modules=$("$swift" build --show-bin-path)/Modules
target=$("$swift" -print-target-info | "$python" -c 'import json, sys; print(json.load(sys.stdin)["target"]["unversionedTriple"])')
toolchain=$(dirname "$(readlink -f "$(command -v "$swift")")")
"$toolchain/swift-symbolgraph-extract" -module-name DiffusionScheduling -target "$target" -I "$modules" \
    -I Sources/CKernels/include -I Sources/DeviceKernels/include \
    -minimum-access-level public -output-dir "$work/symbols"
# The library adds only conformances to Swift's own types.
rm -f "$work"/symbols/*@*
"$python" docs/Site/check_comments.py "$work/symbols/DiffusionScheduling.symbols.json"
for file in Sources/DiffusionScheduling/DiffusionScheduling.docc/Resources/*.swift; do
    "$toolchain/swiftc" -typecheck -warnings-as-errors -I "$modules" -I Sources/CKernels/include -I Sources/DeviceKernels/include "$file"
done
# DocC's pages link to the start page by a header, whose address depends on BASE.
cp -R Sources/DiffusionScheduling/DiffusionScheduling.docc "$work"
sed "s|BASE|${base:+/$base}|" docs/Site/header.html >"$work/DiffusionScheduling.docc/header.html"
"$toolchain/docc" convert "$work/DiffusionScheduling.docc" --additional-symbol-graph-dir "$work/symbols" --experimental-enable-custom-templates \
    --fallback-bundle-identifier DiffusionScheduling --fallback-default-module-kind Library --transform-for-static-hosting --hosting-base-path "${base:+$base/}swift" \
    --warnings-as-errors --output-path "$site/swift"

echo "-- C"
"$python" docs/Site/check_headers.py Sources/*/include/*.h
{
    cat docs/Site/Doxyfile
    echo "OUTPUT_DIRECTORY = $site"
    echo "HTML_OUTPUT = c"
    echo "PROJECT_NUMBER = $(awk '/define DS_VERSION_(MAJOR|MINOR|PATCH)/ { v = v dot $3; dot = "." } END { print v }' \
        Sources/CDiffusionScheduling/include/diffusion_scheduling.h)"
} | doxygen -

echo "-- Python"
# A copy of the sources, without stubs and libraries of earlier builds.
cp bindings/python/diffusion_scheduling/*.py "$work/python/diffusion_scheduling"
cp bindings/python/formulas.py "$work/python"
DIFFUSION_SCHEDULING_LIBRARY=$modules/../libDiffusionSchedulingC.so PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$work/python \
    "$python" docs/Site/python_reference.py "$site/python"

echo "-- Documents"
"$python" docs/Site/pages.py "$site"
"$python" docs/Site/check_links.py "$site" --base "/$base"
rm -rf "$work"
