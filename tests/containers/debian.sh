# shellcheck shell=bash
# What both scripts need to take packages of a newer Debian from the machine's own mirror.

can_install() {  # apt knows its mirror once it was there
    [ "$(id -u)" -eq 0 ] && grep -qx 'ID=debian' /etc/os-release &&
        { [ -n "$(mirror)" ] || apt-get -qq update; }
}
targets() { apt-get indextargets --format "$1" 'Created-By: Packages' | grep -v security; }
mirror() { targets '$(REPO_URI)' | head -n 1; }
suite() { targets '$(RELEASE)' | head -n 1; }

newer() {  # SUITE COMMAND...: apt-get, with the packages of a newer suite where they are asked for
    local newer=$1 apt=/var/cache/celery-template/apt
    shift
    mkdir -p "$apt"/{sources,preferences,lists/partial}
    cp /etc/apt/sources.list.d/* "$apt/sources/" 2>/dev/null || true
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $newer main" \
        >"$apt/sources/newer.list"
    printf 'Package: *\nPin: release n=%s\nPin-Priority: 100\n' "$newer" >"$apt/preferences/newer"
    DEBIAN_FRONTEND=noninteractive apt-get -qq --yes -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        -o Dir::Etc::SourceParts="$apt/sources" -o Dir::Etc::PreferencesParts="$apt/preferences" \
        -o Dir::State::Lists="$apt/lists" "$@"
}
