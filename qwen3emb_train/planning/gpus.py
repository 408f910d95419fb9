"""The GPUs that a plan can be made for. Vendors' figures for dense arithmetic, without sparsity."""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator.

    Attributes:
        memory: bytes that the driver reports, 0 where unknown.
        bf16_flops, fp32_flops: FLOP/s of matrix products.
        memory_bandwidth: bytes/s.
        link: bytes/s in one direction between GPUs of a node.
        network: bytes/s of a GPU's share of its node's network (400 Gb/s where the vendor's systems have it).
        overhead: bytes beyond tensors: driver context, kernels, NCCL's buffers.
    """

    memory: float
    bf16_flops: float
    fp32_flops: float
    memory_bandwidth: float
    link: float
    network: float
    overhead: float = 1.5 * GIB


GPUS = {
    "h100": Gpu(79.1 * GIB, 989e12, 67e12, 3.35e12, 450e9, 50e9),
    "h200": Gpu(139.8 * GIB, 989e12, 67e12, 4.8e12, 450e9, 50e9),
    "a100-80": Gpu(79.1 * GIB, 312e12, 19.5e12, 2.0e12, 300e9, 25e9),
    "l40s": Gpu(44.4 * GIB, 362e12, 91.6e12, 0.864e12, 32e9, 12.5e9),
    "4090": Gpu(23.5 * GIB, 165e12, 82.6e12, 1.008e12, 16e9, 3e9),
    # One core, measured (scripts' CPU, loaded): 90 GFLOP/s in fp32, 380 in bf16 with AMX.
    "cpu": Gpu(0.0, 380e9, 90e9, 10e9, 5e9, 1e9, overhead=0.0),
}
