#!/usr/bin/env bash
# The whole chain in a minute on a CPU. Run it again: every stage says "up to date".
#   TINY: where results go (default outputs/tiny)    PYTHON: which Python (default python)
set -euo pipefail
cd "$(dirname "$0")/../.."

out=${TINY:-outputs/tiny}
python=${PYTHON:-python}

stage() {  # PROGRAM NAME key=value ...
    local program=$1 name=$2
    shift 2
    echo "== $name"
    "$python" -m qwen3emb_train "$program" --config-dir recipes/tiny --config-name "$name" "$@"
}

[[ -f $out/base/config.json ]] || "$python" -m tests.tiny "$out/base"
stage train_embedding 1_pretrain model.path="$out/base" output_dir="$out/1_pretrain" cache_dir="$out/cache"
stage mine_negatives 2_mine model="$out/1_pretrain/model" output_dir="$out/2_mine"
stage train_embedding 3_finetune model.path="$out/1_pretrain/model" data.labelled.path="$out/2_mine/examples.jsonl" \
    output_dir="$out/3_finetune" cache_dir="$out/cache"
checkpoints=$out/3_finetune/checkpoints
stage merge 4_merge "models=[$checkpoints/step_000003/model,$checkpoints/step_000006/model]" output_dir="$out/4_merge"
stage export 5_export model="$out/4_merge" output_dir="$out/export"
stage evaluate 6_evaluate models.stage_1="$out/1_pretrain/model" models.without_merge="$out/3_finetune/model" \
    models.full="$out/export" output_dir="$out/6_evaluate"
"$python" -m qwen3emb_train search model="$out/export" corpus=recipes/tiny/data/test/corpus.jsonl \
    query="how long to cook a soft egg" top_k=3
