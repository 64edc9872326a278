#!/usr/bin/env bash
# Measure the engine on a machine with a GPU, torch and transformers alone: no Spark, no network, no model files.
#
#   OUT=build/gpu bash benchmarks/gpu_measure.sh
#   OUT=build/gpu DEVICE=cpu TINY=--tiny SECONDS_EACH=0.2 bash benchmarks/gpu_measure.sh   # on a CPU, to try it
#
# Stages run in order of worth, each with a time limit of its own; no stage begins once LIMIT seconds are over. A stage that fails or is
# stopped leaves its log, and the next one begins.
set -u
OUT=${OUT:-build/gpu} LIMIT=${LIMIT:-560} DEVICE=${DEVICE:-cuda} TINY=${TINY:-} SECONDS_EACH=${SECONDS_EACH:-1.5} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONPATH=. HF_HUB_OFFLINE=1

stage() { # name, most seconds, command
    local name=$1 most=$2 left=$((LIMIT - SECONDS)) began=$SECONDS
    shift 2
    if ((left < 20)); then
        echo "$name: not run, no time is left"
        return
    fi
    timeout -k 5 "$((most < left ? most : left))" "$@" >"$OUT/$name.log" 2>&1
    echo "$name: status $?, $((SECONDS - began)) s"
    tail -n 14 "$OUT/$name.log"
}

speed() { # name, most seconds, shapes, lengths
    # shellcheck disable=SC2086 # TINY is a word or none
    stage "$1" "$2" "$PYTHON" -m benchmarks.gpu --device "$DEVICE" $TINY --seconds "$SECONDS_EACH" --shapes "$3" --lengths "$4" --json "$OUT/$1.json"
}

stage exact 120 "$PYTHON" -m pytest -q -p no:cacheprovider -m gpu -k windows tests/encoder/gpu/test_gpu.py
speed speed-8B 120 8B 12,100
speed speed-135M 90 135M 12,30,100,500
speed speed-between 120 0.5B,1.5B 12,100
