#!/usr/bin/env bash
# Measure the engine on a machine with a GPU, torch and transformers alone: no Spark, no network, no model files.
#
#   OUT=build/gpu bash benchmarks/gpu_measure.sh
#   OUT=build/gpu DEVICE=cpu TINY=--tiny EACH=0.2 bash benchmarks/gpu_measure.sh   # on a CPU, to try it
#
# Stages run in order of worth, each with a time limit of its own; no stage begins once LIMIT seconds are over. A stage that fails or is
# stopped leaves its log, and the next one begins.
set -u
OUT=${OUT:-build/gpu} LIMIT=${LIMIT:-560} DEVICE=${DEVICE:-cuda} TINY=${TINY:-} EACH=${EACH:-1.5} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 PYTHONPATH=. HF_HUB_OFFLINE=1 TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$(mktemp -d)}

stage() { # name, most seconds, command
    local name=$1 most=$2 left=$((LIMIT - SECONDS)) began=$SECONDS
    shift 2
    if ((left < 20)); then
        echo "$name: not run, no time is left"
        return
    fi
    timeout -k 5 "$((most < left ? most : left))" "$@" >"$OUT/$name.log" 2>&1
    echo "$name: status $?, $((SECONDS - began)) s"
    cut -c-700 "$OUT/$name.log" | tail -n 16
}

speed() { # name, most seconds, shapes, lengths
    # shellcheck disable=SC2086 # TINY is a word or none
    stage "speed-${1%%,*}" "$2" "$PYTHON" -m benchmarks.gpu --device "$DEVICE" $TINY --seconds "$EACH" --shapes "$1" --lengths "$3" --json "$OUT/speed-${1%%,*}.json"
}

probe() { # name, most seconds, arguments
    local name=$1 most=$2
    shift 2
    # shellcheck disable=SC2086
    stage "$name" "$most" "$PYTHON" -m benchmarks.gpu_probe "$@" --out "$OUT" --device "$DEVICE" $TINY --seconds "$EACH"
}

speed 8B 130 12,30,100,500
speed 135M,1.5B,0.6B 150 12,30,100,500,mix
probe exact 60 exact --cases llama,gemma3
probe profile 60 profile
probe exact-rest 100 exact --cases qwen3,gemma2,gpt2,mistral
