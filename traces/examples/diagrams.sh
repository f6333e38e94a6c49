#!/usr/bin/env bash
# Three runs of a real cluster, as pages, stories and pictures: traces/examples/diagrams.sh [DIR]
#
#   writes     three nodes; a client writes, reads, deletes and reads again
#   failover   three nodes; the coordinator is killed under a client's writes
#   eviction   four nodes; a node that does not coordinate is killed, and its removal told to all
#
# DIR (target/diagrams unless given) gets RUN.html, RUN.txt, RUN.log for ShiViz, and, where there is
# a chromium, RUN.png. The clusters listen on loopback and are gone afterwards.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p "${1:-target/diagrams}"
out="$(cd "${1:-target/diagrams}" && pwd)"

cargo build --quiet --release --locked
quorate="$PWD/target/release/quorate"
scratch="$(mktemp -d)"
trap '"$quorate" down --data "$scratch/data" >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT
cd "$scratch"

# Starts a cluster of so many nodes whose trace is that of a run.
start() {
    "$quorate" up --detach --nodes "$1" --data data --trace "$2" 2>/dev/null
    export QUORATE_SERVER
    QUORATE_SERVER="$(grep -o '"address": *"[^"]*"' data/cluster.json | cut -d'"' -f4 | paste -sd,)"
}

# The number of the node that coordinates.
coordinator() { "$quorate" status -o json | grep -o '"coordinator":[0-9]*' | head -n 1 | cut -d: -f2; }

# Waits until the members are these, as status prints them.
members() {
    for _ in $(seq 200); do
        "$quorate" status -o json | grep -q "\"members\":\[$1\]" && return
        sleep 0.05
    done
    echo "the members are not $1" >&2
    return 1
}

# The time of the first event of a run, or of the first in which some words are, in nanoseconds.
first() { cat "$1"/*.govec | paste -d'\t' - - | grep -E -- "${2:-}" | sort -n | head -n 1 | cut -d' ' -f1; }

# Shows a run: from some microseconds before the first event that says so, for so many. Who
# started the cluster is left out, and calls where they are named.
show() {
    local run="$1" words="$2" before="$3" length="$4" calls="$5"
    "$quorate" down --data data 2>/dev/null
    rm -rf data
    "$quorate" trace view "$run" -o "$out/$run.html" 2>/dev/null
    "$quorate" trace shiviz "$run" -o "$out/$run.log" 2>/dev/null
    local from=$((($(first "$run" "$words") - $(first "$run")) / 1000 - before))
    local starter
    starter="$(basename "$run"/up-*.1.govec .1.govec)"
    local hash="#theme=light&t=$from,$((from + length))&hide-hosts=$starter&hide-calls=$calls"
    if command -v chromium >/dev/null; then
        chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1440,900 \
            --virtual-time-budget=5000 --screenshot="$out/$run.png" "file://$out/$run.html$hash" 2>/dev/null
    fi
    echo "$out/$run.html$hash"
}

start 3 writes
"$quorate" run W,color,blue R,color D,color R,color --trace writes >/dev/null
"$quorate" trace explain writes --key color >"$out/writes.txt" 2>/dev/null
show writes 'client.*rpc=store.write dir=request' 300 4200 heartbeat.beat

start 3 failover
"$quorate" run $(seq -f 'W,k%g,v' 400) --trace failover >/dev/null 2>&1 &
client=$!
while ! grep -qs 'rpc=store.write dir=reply.*k50' failover/client-*.govec; do sleep 0.01; done
killed="$(coordinator)"
"$quorate" up kill "$killed" --data data 2>/dev/null
wait "$client"
"$quorate" trace explain failover --election >"$out/failover.txt" 2>/dev/null
show failover 'the_coordinator_is_silent' 12000 60000 heartbeat.beat,store.status

start 4 eviction
victim=3
[ "$(coordinator)" != 3 ] || victim=4
"$quorate" up kill "$victim" --data data 2>/dev/null
others="$(seq 4 | grep -v "$victim" | paste -sd,)"
members "$others"
"$quorate" trace explain eviction --election >"$out/eviction.txt" 2>/dev/null
show eviction 'a_node_is_silent' 30000 70000 store.status,store.coordinator,registry.status
