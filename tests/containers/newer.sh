#!/usr/bin/env bash
# Lay out the servers of the images that projects name, for tests that start and kill servers: with
# TEMPLATE_TESTS_SERVERS=DIRECTORY/bin they start these instead of those of the machine. Needs root.
# newer.sh DIRECTORY
set -euo pipefail
[ "$(id -u)" -eq 0 ] || { echo "newer.sh needs root: its commands change their root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/bin"
for image in $("$here/images.sh" names | grep -E '^(redis|rabbitmq):'); do
    root=$1/${image%%:*}
    [ -e "$root/usr" ] && continue
    mkdir -p "$root"
    container=$(docker create "$image")
    docker export "$container" | tar -C "$root" -x
    docker rm "$container" >/dev/null
done
cp "$here/in-root" "$1/bin/redis-server"
for name in epmd rabbitmq-{server,diagnostics,plugins,queues,streams,upgrade} rabbitmqctl; do
    cp "$here/in-root" "$1/bin/$name"
done
