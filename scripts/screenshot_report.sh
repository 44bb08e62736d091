#!/bin/sh
# Take a picture of a report with headless Chromium.
# Usage: scripts/screenshot_report.sh <html> <png> [width] [height] [light|dark]
set -eu
if [ $# -lt 2 ]; then
    echo "usage: $0 <html> <png> [width] [height] [light|dark]" >&2
    exit 2
fi
html=$(readlink -f -- "$1")
png=$(readlink -m -- "$2")
width=${3:-1280}
height=${4:-2400}
scheme=${5:-light}
[ -f "$html" ] || { echo "$0: no such report: $1" >&2; exit 1; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "$0: Chromium is not installed (Debian: apt-get install chromium)" >&2
    exit 1
}
case $scheme in
    light) preference=1 ;;
    dark) preference=0 ;;
    *) echo "$0: scheme must be light or dark, not $scheme" >&2; exit 2 ;;
esac
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
# Old headless mode lays out at exactly the asked width; new headless has a least window width of about 500 px.
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" \
    --blink-settings="preferredColorScheme=$preference" --force-device-scale-factor="${SCALE:-1}" \
    --screenshot="$png" --window-size="$width,$height" "file://$html" 2>"$profile/log" || {
    cat "$profile/log" >&2
    exit 1
}
echo "$png"
