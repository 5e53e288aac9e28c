#!/bin/bash
# Says where a Java of 17 or later is, which Spark runs on; installs Debian's 17 where there is none.
set -euo pipefail
find_java() {
    local o v
    for o in "${JAVA_HOME:-/none}/bin/java" "$(type -P java)"; do
        v=$("$o" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p') && [ "${v:-0}" -ge 17 ] && echo "$o" && return
    done 2>/dev/null
    return 1
}
if ! find_java >/dev/null; then
    sudo=; [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo apt-get update >&2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y openjdk-17-jre-headless >&2
fi
find_java
