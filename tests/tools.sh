#!/bin/sh
# Bring what some tests need beyond Python packages: a browser for the page, nginx for TLS, promtool for the alerts.
# As root on Debian its packages; otherwise playwright's own browser. What cannot be had is left: its tests say so.
set -u
bin=$1
PATH="$bin:$PATH"

have() {
    command -v "$1" >/dev/null 2>&1
}

browser() {
    have chromium || have chromium-browser || have google-chrome ||
        "$bin/python" -c '
import os, sys
from playwright.sync_api import sync_playwright
with sync_playwright() as driver:
    sys.exit(not os.path.exists(driver.chromium.executable_path))' 2>/dev/null
}

packages=
browser || packages="$packages chromium"
have nginx || packages="$packages nginx-light"
have openssl || packages="$packages openssl"
have curl || packages="$packages curl"

if [ "$(id -u)" = 0 ] && have apt-get && { [ -n "$packages" ] || ! have promtool; }; then
    echo "Bringing what tests need from Debian's packages:$packages promtool"
    apt-get update -qq >/dev/null 2>&1
    # shellcheck disable=SC2086
    [ -z "$packages" ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages \
        >/dev/null 2>&1 || echo "Not all of it could be installed."
    if ! have promtool && [ ! -x "$bin/promtool" ]; then
        # The one program, without the server that its package would start.
        folder=$(mktemp -d)
        (cd "$folder" && apt-get download -qq prometheus >/dev/null 2>&1 && dpkg-deb -x prometheus_*.deb .) &&
            cp "$folder/usr/bin/promtool" "$bin/promtool"
        rm -rf "$folder"
    fi
fi
browser || "$bin/playwright" install chromium-headless-shell >/dev/null 2>&1 ||
    echo "There is no browser for the tests of the page, and none could be fetched."
