#!/usr/bin/env bash
# Fuzzes the codec or the session for so many minutes of CPU time: exit code 1 and the input's path if something is found.
#
#   scripts/fuzz.sh decode 30     # bytes into the codec (mqtt/fuzz)
#   scripts/fuzz.sh session 30    # bytes into a shard, before and after CONNECT (shard/fuzz)
#
# Needs cargo-fuzz (cargo install --locked cargo-fuzz) and a C++ compiler. What is found on the way is kept in target/fuzz and
# used by the next run; the seeds in the repository stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 2
}

target=${1:-} minutes=${2:-30}
case $target in
decode) folder=mqtt ;;
session) folder=shard ;;
*) usage ;;
esac
[[ $minutes =~ ^[0-9]+$ ]] || usage
command -v cargo-fuzz >/dev/null || {
    echo "fuzz.sh: cargo-fuzz is not there: cargo install --locked cargo-fuzz" >&2
    exit 2
}

work=$PWD/target/fuzz
corpus=$work/corpus/$target findings=$work/findings/$target
mkdir -p "$corpus" "$findings"
# Counters of coverage need flags that a stable compiler takes only when it is told to.
(cd $folder && RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$work cargo fuzz build -s none "$target")
program=$(find "$work" -path "*/release/$target" -type f | head -n 1)

"$program" "$corpus" "$folder/fuzz/seeds/$target" "-artifact_prefix=$findings/" -print_final_stats=1 -rss_limit_mb=4096 &
fuzzer=$!
trap 'kill -INT $fuzzer 2>/dev/null' INT TERM
ticks=$(getconf CLK_TCK) used=0
while stat=$(cat "/proc/$fuzzer/stat" 2>/dev/null); do
    # User and system time are fields 14 and 15, in ticks (proc_pid_stat(5)); the name, field 2, may hold spaces.
    read -r -a fields <<<"${stat##*) }"
    used=$(((fields[11] + fields[12]) / ticks))
    ((used < minutes * 60)) || kill -INT $fuzzer 2>/dev/null || true
    sleep 2
done
code=0
wait $fuzzer || code=$?
# An interrupted libFuzzer says 72, which is how a fuzzer ends that has found nothing.
if ((code == 0 || code == 72)); then
    echo "fuzz.sh: $target: nothing found in $((used / 60)) minutes of CPU time"
else
    echo "fuzz.sh: $target: found something, see $findings" >&2
    exit 1
fi
