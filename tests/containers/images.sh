#!/usr/bin/env bash
# Have the images that projects name: pulled, or, where no registry of images answers, stand-ins
# that are built from Debian's packages, as root on Debian.
# images.sh [names]
set -euo pipefail
cd "$(dirname "$0")"
. ./debian.sh

stand_in() {  # NAME:TAG
    can_install || { echo "no image $1: neither pulled nor built here" >&2; exit 1; }
    base trixie
    base forky
    docker build --quiet --target "${1%%:*}" --tag "$1" \
        --build-context certificates=/usr/local/share/ca-certificates . >/dev/null
}

base() {  # SUITE: a minimal Debian
    ! docker image inspect "debian:$1" >/dev/null 2>&1 || return 0
    command -v debootstrap >/dev/null || newer trixie install --no-install-recommends debootstrap
    local root
    root=$(mktemp -d)
    debootstrap --variant=minbase "$1" "$root" "$(mirror)" /usr/share/debootstrap/scripts/trixie \
        >"$root.log" || { cat "$root.log" >&2; exit 1; }
    rm -rf "$root.log" "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    # What this machine knows of its mirror holds in the image, too.
    apt-config dump | grep -E '^Acquire::(Check-|https?::)' >"$root/etc/apt/apt.conf.d/90mirror" || true
    tar -C "$root" -c . | docker import - "debian:$1" >/dev/null
    rm -rf "$root"
}

names() {
    sed -nE 's/.*"(image|_postgres_image)": "(.+)",/\2/p; s/.*"_python": "(.+)",/python:\1-slim/p' \
        ../../cookiecutter.json
}

if [ "${1-}" = names ]; then
    names
    exit
fi
for image in $(names); do
    if docker image inspect "$image" >/dev/null 2>&1 || docker pull --quiet "$image" 2>/dev/null; then
        continue
    fi
    stand_in "$image"
    echo "$image: a stand-in"
done
