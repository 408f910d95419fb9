"""Where weights, gradients and optimizer state live: one process, DDP, DeepSpeed ZeRO or FSDP2.

An engine runs the model, carries gradients across ranks once a step, and updates. Objectives, the loop and
checkpoints use only ``engine.Engine``; ``launch.start`` reads which one the launcher asked for.
"""
