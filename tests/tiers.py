"""What ``scripts/check.sh fast`` leaves out, and why. Single slow tests are marked ``slow`` where they stand.

A file belongs here if it starts processes that load torch, needs a large library beside torch and transformers, or
takes more than some ten seconds on one quiet core. ``scripts/check.sh`` runs all of them.
"""

PROCESSES = "starts processes"
LIBRARIES = "needs Sentence-Transformers, mteb, mergekit, llama.cpp, ONNX, FAISS, Ray or bitsandbytes"
LONG = "takes more than some ten seconds"

SLOW_FILES = {
    "tests/data_synth/test_chaos.py": PROCESSES,
    "tests/data_synth/test_personas.py": LIBRARIES,
    "tests/data_synth/test_real_server.py": LIBRARIES,
    "tests/evaluation/tasks/test_same_as_mteb.py": LIBRARIES,
    "tests/evaluation/test_evaluate.py": LIBRARIES,
    "tests/evaluation/test_mteb_tasks.py": LIBRARIES,
    "tests/evaluation/test_stored_vectors.py": LIBRARIES,
    "tests/export/test_cross_encoder.py": LIBRARIES,
    "tests/export/test_gguf.py": LIBRARIES,
    "tests/export/test_layout.py": LIBRARIES,
    "tests/export/test_onnx.py": LIBRARIES,
    "tests/export/test_quantization.py": LIBRARIES,
    "tests/export/test_reranker_chain.py": LIBRARIES,
    "tests/export/test_sentence_transformers.py": LIBRARIES,
    "tests/export/test_verify.py": LIBRARIES,
    "tests/index/test_embed.py": LIBRARIES,
    "tests/index/test_embed_processes.py": PROCESSES,
    "tests/index/test_embedders.py": LIBRARIES,
    "tests/losses/test_memory.py": LONG,
    "tests/losses/test_ranks.py": PROCESSES,
    "tests/merging/test_against_mergekit.py": LIBRARIES,
    "tests/mining/search/test_finding.py": LIBRARIES,
    "tests/mining/search/test_rescoring.py": LIBRARIES,
    "tests/mining/test_negatives.py": PROCESSES,
    "tests/models/test_gguf.py": LIBRARIES,
    "tests/models/test_quantization.py": LIBRARIES,
    "tests/pipeline/test_tiny.py": LONG,
    "tests/planning/test_dry_run.py": PROCESSES,
    "tests/planning/test_memory.py": PROCESSES,
    "tests/scripts/test_benchmarks.py": PROCESSES,
    "tests/scripts/test_front_door_under_stress.py": PROCESSES,
    "tests/training/engines/test_engines.py": PROCESSES,
    "tests/training/engines/test_reading_in_parts.py": PROCESSES,
    "tests/training/faults/test_elastic.py": PROCESSES,
    "tests/training/faults/test_non_finite_ranks.py": PROCESSES,
    "tests/training/faults/test_rank_failure.py": PROCESSES,
    "tests/training/faults/test_resume.py": PROCESSES,
    "tests/training/faults/test_signals.py": PROCESSES,
    "tests/training/faults/test_torn_saves.py": PROCESSES,
    "tests/training/test_health_ranks.py": PROCESSES,
    "tests/training/test_launch.py": PROCESSES,
}
