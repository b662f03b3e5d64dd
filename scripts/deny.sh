#!/bin/sh
# Checks what we build on with cargo-deny: bans, licences, sources, and advisories where their database can be reached.
# The first three are also a test (`broker/tests/supply_chain.rs`) that needs nothing installed; this says more.
#
#   scripts/deny.sh        exit code 0: nothing found, 1: something was
set -eu
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "installing cargo-deny (some ten minutes on two cores)" >&2
    cargo install --locked --quiet cargo-deny
fi
cargo deny --log-level error check bans licenses sources
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if cargo deny --log-level error fetch db >"$log" 2>&1; then
    cargo deny --log-level error check --disable-fetch advisories
else
    cat "$log" >&2
    echo "advisories: the database cannot be reached from here, not checked" >&2
fi
