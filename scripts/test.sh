#!/bin/sh
# Runs every test that CI runs, installing what they need first. On a quiet machine with two cores: over twenty minutes from nothing,
# fifteen when everything is built.
#
#   scripts/test.sh            everything
#   scripts/test.sh rust       formatting, lints and the Rust tests only
#   scripts/test.sh interop    other people's clients against the binary only
set -eu
cd "$(dirname "$0")/.."
what=${1:-all}
began=$(date +%s)
step() {
    printf '\n== %s (%d s) ==\n' "$1" "$(($(date +%s) - began))"
    shift
    "$@"
}

# What a run of the simulator prints last, the hash of all its runs, is also what this script prints last.
played=$(mktemp)
trap 'rm -f "$played"' EXIT
simulate() {
    cargo run --locked --quiet --package quelea-sim -- --seeds 0..200 --jobs 2 >"$played" || {
        cat "$played"
        return 1
    }
    cat "$played"
}

step "what building needs" scripts/setup-build.sh
if [ "$what" != interop ]; then
    # A test reads the licences of all packages of the lock file, those of the benches and of other systems included.
    step "packages" cargo fetch --locked --quiet
    step "formatting" cargo fmt --all --check
    step "lints" cargo clippy --locked --all-targets -- --deny warnings
    # Deliberate faults are in no other build: the simulator must find each.
    step "lints of the deliberate faults" cargo clippy --locked --package quelea-sim --features mutants --all-targets -- --deny warnings
    # The client's tests start mosquitto; set up here what the interoperability suite needs as well.
    step "what the tests need" scripts/setup-tests.sh
    step "Rust tests" cargo test --locked
    step "deliberate faults" cargo test --locked --package quelea-sim --features mutants --test mutants
    step "simulator" simulate
    step "instructions per message" scripts/instructions.sh
fi
if [ "$what" != rust ]; then
    step "the binaries" cargo build --locked --package quelea --package quelea-load
    step "other people's clients" scripts/interop.sh -q
fi
printf '\nall green after %d s\n' "$(($(date +%s) - began))"
tail -n 1 "$played"
