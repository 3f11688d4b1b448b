#!/usr/bin/env bash
# Run a command with a Docker engine, its Compose 2, and the images that projects name.
# An engine that answers is used. Otherwise, as root on Debian, one is installed from its packages
# and runs as long as the command; nothing is added to the machine's own package sources.
# engine.sh COMMAND...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/debian.sh"

answers() { docker info >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

install() {
    command -v dockerd >/dev/null && docker compose version >/dev/null 2>&1 && return
    # Compose 2 is in Debian since trixie, whose runc needs a newer libc than that of bookworm.
    newer trixie update
    newer trixie install --no-install-recommends iptables "runc/$(suite)" \
        {docker.io,docker-cli,containerd,docker-compose,docker-buildx}/trixie
}

start() {
    dockerd >/var/log/dockerd.log 2>&1 </dev/null &
    engine=$!
    trap 'kill "$engine" && wait "$engine"' EXIT
    until answers; do
        kill -0 "$engine" 2>/dev/null || { tail -n 20 /var/log/dockerd.log >&2; return 1; }
        sleep 0.2
    done
}

if ! answers && can_install; then
    install && { answers || start; }
fi
if answers; then
    "$here/images.sh"
fi
"$@"
