#!/usr/bin/env bash
# The whole recipe. Run it again after a stop: finished stages say "up to date", an interrupted one continues.
#   LAUNCH: how training is started; LAUNCH=python trains on one GPU
set -euo pipefail
cd "$(dirname "$0")/../.."

launch=${LAUNCH:-accelerate launch --config_file scripts/launch/ddp.yaml}
name=qwen3-embedding-0.6b
recipe="--config-dir recipes/$name"

# $launch and $recipe are several words each.
# shellcheck disable=SC2086
{
    $launch -m qwen3emb_train train_embedding $recipe --config-name 1_pretrain

    python -m qwen3emb_train mine_negatives $recipe --config-name 2_mine
    # (report) synthetic pairs with a cosine above 0.7; which model scores them is not said: here stage 1's.
    python -m qwen3emb_train mine_negatives $recipe --config-name 2_mine min_positive_score=0.7 \
        examples=data/$name/finetune/synthetic_sample.jsonl output_dir=outputs/$name/2_mine/synthetic

    $launch -m qwen3emb_train train_embedding $recipe --config-name 3_finetune
    python -m qwen3emb_train merge $recipe --config-name 4_merge
    python -m qwen3emb_train export $recipe --config-name 5_export
    python -m qwen3emb_train evaluate $recipe --config-name 6_evaluate
}
