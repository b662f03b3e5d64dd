#!/bin/sh
# Installs what building needs on a Debian machine beside the Rust toolchain: a C compiler, for aws-lc. Safe to run again.
set -eu
packages=
command -v cc >/dev/null 2>&1 || packages="gcc libc6-dev"
command -v make >/dev/null 2>&1 || packages="$packages make"
[ -n "$packages" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
    echo "setup-build: run as root, or install first: $packages" >&2
    exit 1
fi
apt-get update -q
# shellcheck disable=SC2086  # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $packages
