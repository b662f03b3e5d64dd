#!/bin/sh
# Plays the same seeds in development and release builds of the simulator, and compares the hashes of all runs. That a build
# repeats itself is a test (sim/tests/seeds.rs). Five minutes on two quiet cores when both are built.
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
    debug=$(play debug "$@")
    release=$(play release "$@")
    if [ "$debug" != "$release" ]; then
        printf 'seeds %s %s differ: %s (debug), %s (release)\n' "$seeds" "$*" "$debug" "$release"
        exit 1
    fi
    case $debug in
    "hash of all runs: "*) ;;
    *)
        printf 'seeds %s %s fail: %s\n' "$seeds" "$*" "$debug"
        exit 1
        ;;
    esac
    printf 'seeds %s %s: %s, in both builds\n' "$seeds" "$*" "$debug"
}

compare --crypto null
compare --crypto tls --profile quic,rebinding,paths,handshakes,mixed,wide
