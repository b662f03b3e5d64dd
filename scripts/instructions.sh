#!/bin/sh
# Counts the instructions that the broker's core takes per message, and compares them with those on record.
#
#   scripts/instructions.sh            fails if a scenario takes over 3 % more than its record
#   scripts/instructions.sh --accept   records what it counts
#
# What runs is shard/examples/instructions: bytes in, bytes out, no sockets. valgrind counts what is executed inside our own
# binary during the rounds that count; what the C library executes (memcpy, which chooses its code by the processor, and malloc)
# is left out, hash seeds are fixed, and nothing else depends on the machine: two runs differ by less than 0.01 %. Another
# compiler is another matter: then only what is over 15 % fails, and the run says so.
set -eu
cd "$(dirname "$0")/.."
record=shard/examples/instructions/record.txt
target=${CARGO_TARGET_DIR:-target}
accept=no
case ${1:-} in
'') ;;
--accept) accept=yes ;;
*) echo "usage: $0 [--accept]" >&2; exit 2 ;;
esac
if ! command -v valgrind >/dev/null 2>&1; then
    echo "instructions: valgrind is missing; scripts/setup-tests.sh installs it" >&2
    exit 1
fi

cargo --config scripts/instructions.toml build --locked --quiet --package quelea-shard --example instructions
binary=$target/debug/examples/instructions
counts=$target/instructions.txt
profile=$target/instructions.callgrind

rustc --version | awk '{ print "rustc", $2 }' >"$counts"
"$binary" | while read -r name messages; do
    valgrind --quiet --tool=callgrind --callgrind-out-file="$profile" --toggle-collect=quelea_counted_rounds "$binary" "$name"
    # A line of cost belongs to the object and function named last; the line after "calls=" repeats what was called.
    awk -v name="$name" -v messages="$messages" '
        /^ob=/ {
            split($0, at, /[()]/)
            if (length($0) > length("ob=()" at[2])) names[at[2]] = $0
            own = names[at[2]] ~ /examples\/instructions$/
            next
        }
        /^cob=/ { split($0, at, /[()]/); if (length($0) > length("cob=()" at[2])) names[at[2]] = $0; next }
        /^calls=/ { getline; next }
        /^[0-9+*-]/ && own { sum += $2 }
        END { printf "%s %.1f\n", name, sum / messages }
    ' "$profile" >>"$counts"
done
rm -f "$profile"

if [ $accept = yes ]; then
    cp "$counts" $record
    echo "recorded in $record:"
    cat $record
    exit 0
fi
awk '
    NR == FNR { before[$1] = $2; next }
    $1 == "rustc" {
        allowed = 3
        if ($2 != before["rustc"]) {
            allowed = 15
            print "recorded with rustc " before["rustc"] ", counted with " $2 ": only what is over 15 % counts"
        }
        printf "%-24s %10s %10s %8s\n", "per message", "recorded", "counted", "change"
        next
    }
    !($1 in before) { print $1 ": not on record; run scripts/instructions.sh --accept"; failed = 1; next }
    {
        change = 100 * ($2 / before[$1] - 1)
        verdict = change > allowed ? "  TOO MUCH" : ""
        if (change > allowed) failed = 1
        printf "%-24s %10.1f %10.1f %+7.2f%%%s\n", $1, before[$1], $2, change, verdict
        seen[$1] = 1
    }
    END {
        for (name in before) if (name != "rustc" && !(name in seen)) { print name ": on record, but not counted"; failed = 1 }
        exit failed
    }
' $record "$counts"
