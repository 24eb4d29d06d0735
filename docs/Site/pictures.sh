#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Takes pictures of the site's pages in Chromium, 1,280 and 390 pixels wide, for people to look at.
#
#     docs/Site/pictures.sh SITE FOLDER
#
# Chromium's windows can't be as narrow as a phone, so narrow pages are shown in a frame. SITE must be built for a server's root.
set -euo pipefail

site=$1 folder=$2
rm -rf "$folder"
mkdir -p "$folder"
frames=$(mktemp -d)
ln -s "$(realpath "$site")"/* "$frames"
log=$frames.log
python3 -u -m http.server --bind 127.0.0.1 --directory "$frames" 0 >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -rf "$frames" "$log"' EXIT
for _ in $(seq 50); do
    port=$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$log")
    [ -n "$port" ] && break
    sleep 0.1
done

# take NAME WIDTH ADDRESS: takes a picture of a page after its scripts have drawn it.
take() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --virtual-time-budget=15000 --window-size="$2,1400" \
        --user-data-dir="$frames.profile" --screenshot="$folder/$1" "http://127.0.0.1:$port/$3" >/dev/null 2>&1
    [ -s "$folder/$1" ] || { echo "pictures: Chromium made no picture of $3"; exit 1; }
}

while read -r name page; do
    take "$name-1280.png" 1280 "$page"
    echo "<!doctype html><style>body { margin: 0 } iframe { width: 390px; height: 1400px; border: 0 }</style><iframe src=\"/$page\"></iframe>" \
        >"$frames/narrow-$name.html"
    take "$name-390.png" 500 "narrow-$name.html"
done <<'PAGES'
start index.html
schedulers pages/docs/SCHEDULERS.html
differences pages/docs/DIFFERENCES.html
swift swift/documentation/diffusionscheduling/
swift-article swift/documentation/diffusionscheduling/addascheduler/
swift-symbol swift/documentation/diffusionscheduling/samplingsession/
swift-tutorial swift/tutorials/diffusionscheduling/sampledigits/
c c/diffusion__scheduling_8h.html
c-struct c/structds__row.html
python python/diffusion_scheduling.html
python-schedulers python/diffusion_scheduling/schedulers.html
PAGES
rm -rf "$frames.profile"
echo "pictures: $(find "$folder" -name '*.png' | wc -l) in $folder"
