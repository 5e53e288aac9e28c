#!/bin/bash
# Says where Chromium is, in which tests open pages; installs Debian's where there is none.
set -euo pipefail
browser() { command -v chromium || command -v google-chrome || command -v chromium-browser; }
if ! browser >/dev/null; then
    sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update >&2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y chromium >&2
fi
browser
