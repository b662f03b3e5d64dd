#!/bin/sh
# Runs the interoperability suite: clients that are not ours against our binary.
#
#   scripts/interop.sh                        everything, against target/release/quelea or target/debug/quelea
#   scripts/interop.sh -k retained            pytest's arguments are passed on; files are named from tests/interop
#   QUELEA_BIN=path scripts/interop.sh        another binary
#   BROKER=mosquitto scripts/interop.sh       the TCP half against mosquitto: shows that the suite itself is right
set -eu
cd "$(dirname "$0")/.."
scripts/setup-tests.sh
target=$(cd "${CARGO_TARGET_DIR:-target}" && pwd)
export INTEROP_TARGET="$target"
[ -z "${QUELEA_BIN:-}" ] || QUELEA_BIN=$(realpath "$QUELEA_BIN")
cd tests/interop
exec "$target/interop-venv/bin/python" -B -m pytest "$@"
