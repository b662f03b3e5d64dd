#!/bin/sh
# Builds the broker and starts it. Arguments go to `quelea`: scripts/run.sh --help
set -eu
cd "$(dirname "$0")/.."
scripts/setup-build.sh
exec cargo run --release --package quelea -- "$@"
