#!/usr/bin/env bash
# The whole recipe; it stands on an embedding model (recipes/qwen3-embedding-0.6b, or any other: see README.md). Run it
# again after a stop: finished stages say "up to date", an interrupted one continues.
#   LAUNCH: how training is started; LAUNCH=python trains on one GPU
set -euo pipefail
cd "$(dirname "$0")/../.."

launch=${LAUNCH:-accelerate launch --config_file scripts/launch/ddp.yaml}
recipe="--config-dir recipes/qwen3-reranker-0.6b"

# $launch and $recipe are several words each.
# shellcheck disable=SC2086
{
    python -m qwen3emb_train mine_negatives $recipe --config-name 1_mine
    $launch -m qwen3emb_train train_reranker $recipe --config-name 2_finetune
    python -m qwen3emb_train merge $recipe --config-name 3_merge
    python -m qwen3emb_train export_reranker $recipe --config-name 4_export
    python -m qwen3emb_train evaluate $recipe --config-name 5_evaluate
}
