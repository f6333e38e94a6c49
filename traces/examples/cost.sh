#!/usr/bin/env bash
# What tracing costs: traces/examples/cost.sh [instructions | throughput]
#
#   instructions   a call over a connection, counted by callgrind: with the feature left out, built in
#                  and off, and on
#   throughput     writes of 64 clients to three durable nodes, untraced and traced side by side, in
#                  ROUNDS rounds (5 unless given in the environment)
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

# Instructions a call: the difference of two runs leaves out what comes once.
instructions() {
    local few=2000 many=12000 counts=()
    for calls in "$few" "$many"; do
        rm -rf "$scratch/traces"
        valgrind --tool=callgrind --callgrind-out-file=/dev/null \
            "$1" "$calls" ${2:+"$scratch/traces"} >"$scratch/out" 2>&1
        counts+=("$(grep -oE 'Collected : [0-9]+' "$scratch/out" | grep -oE '[0-9]+')")
    done
    echo $(((counts[1] - counts[0]) / (many - few)))
}

count() {
    command -v valgrind >/dev/null || { apt-get update -q && apt-get install -qy --no-install-recommends valgrind; }
    cargo build --quiet --release --locked -p quorate-protocol --example calls --no-default-features
    cp target/release/examples/calls "$scratch/without"
    cargo build --quiet --release --locked -p quorate-protocol --example calls
    cp target/release/examples/calls "$scratch/with"
    echo "instructions a call, both ends together:"
    echo "  without the feature  $(instructions "$scratch/without")"
    echo "  off                  $(instructions "$scratch/with")"
    echo "  on                   $(instructions "$scratch/with" traced)"
}

# Writes a second of a fresh cluster.
writes() {
    rm -rf "$scratch/data" "$scratch/traces"
    target/release/quorate up --detach --nodes 3 --data "$scratch/data" ${1:+--trace "$scratch/traces"} 2>/dev/null
    local server
    server="$(grep -o '"address": *"[^"]*"' "$scratch/data/cluster.json" | head -n 1 | cut -d'"' -f4)"
    target/release/examples/load "$server" write 64 5 ${1:+"$scratch/traces"} | cut -d' ' -f1
    target/release/quorate down --data "$scratch/data" 2>/dev/null
}

throughput() {
    cargo build --quiet --release --locked --bin quorate --example load
    echo "writes a second, 64 clients:  untraced  traced"
    for _ in $(seq "${ROUNDS:-5}"); do
        printf '%38s  %6s\n' "$(writes)" "$(writes traced)"
    done
}

case "${1:-instructions}" in
instructions) count ;;
throughput) throughput ;;
*)
    echo "usage: traces/examples/cost.sh [instructions | throughput]" >&2
    exit 2
    ;;
esac
