#!/bin/sh
# Plays the same seeds in development and release builds of the simulator, twice each, and compares the hashes of all runs.
# Ten minutes on two cores when both are built.
#
#   scripts/sim-same.sh           seeds 0..100 of every profile, and with TLS those of the profiles with QUIC
#   scripts/sim-same.sh 0..500    other seeds
set -eu
cd "$(dirname "$0")/.."
seeds=${1:-0..100}
target=${CARGO_TARGET_DIR:-target}
cargo build --locked --quiet --package quelea-sim
cargo build --locked --quiet --package quelea-sim --release

# The hash of one search by one build.
play() {
    build=$1
    shift
    "$target/$build/quelea-sim" --seeds "$seeds" --jobs "$(nproc)" "$@" 2>/dev/null | tail -n 1
}

compare() {
    first=$(play debug "$@")
    for build in debug release release; do
        again=$(play "$build" "$@")
        if [ "$first" != "$again" ]; then
            printf 'seeds %s %s differ: %s (debug), %s (%s)\n' "$seeds" "$*" "$first" "$again" "$build"
            exit 1
        fi
    done
    printf 'seeds %s %s: %s, in both builds, twice\n' "$seeds" "$*" "$first"
}

compare --crypto null
compare --crypto tls --profile quic,rebinding,handshakes,mixed
