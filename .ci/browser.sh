#!/bin/bash
# Says where Chromium is, in which tests open pages; installs Debian's where there is none, and axe-core, which looks for what a screen reader lacks.
set -euo pipefail
browser() { command -v chromium || command -v google-chrome || command -v chromium-browser; }
if ! browser >/dev/null; then
    sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update >&2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y chromium >&2
fi
axe=$(dirname "${BASH_SOURCE[0]}")/../tests/browser/.axe
if ! [ -f "$axe/package/axe.min.js" ]; then
    mkdir -p "$axe"
    (cd "$axe" && npm pack --silent axe-core@4.14.1 >/dev/null && tar xzf axe-core-4.14.1.tgz package/axe.min.js package/LICENSE && rm axe-core-4.14.1.tgz)
fi
browser
