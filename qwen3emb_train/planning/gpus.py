"""The GPUs that a plan can be made for, and the share of their vendors' figures that kernels reach."""

from dataclasses import dataclass

from qwen3emb_train.planning.kernels import Unit

GIB = 2**30

# Of the vendors' figures: what large products, and kernels that only move numbers, usually reach.
_BF16_PRODUCTS, _FP32_PRODUCTS, _TRAFFIC = 0.65, 0.70, 0.80
# FlashAttention-2 (arXiv 2307.08691) reaches some 60 % of an A100's peak; Hopper's own instructions it does not use.
_ATTENTION, _LARGEST_ATTENTION, _ATTENTION_BACKWARD = 0.60, 300e12, 0.73


@dataclass(frozen=True)
class Gpu:
    """One kind of accelerator. Vendors' figures for dense arithmetic, without sparsity and without TF32.

    Attributes:
        memory: bytes that the driver reports, 0 where unknown.
        bf16_flops, fp32_flops: FLOP/s of matrix products.
        memory_bandwidth: bytes/s.
        link: bytes/s in one direction between GPUs of a node.
        network: bytes/s of a GPU's share of its node's network (400 Gb/s where the vendor's systems have it).
        overhead: bytes beyond tensors: driver context, kernels, NCCL's buffers.
        launch: seconds that the shortest kernel takes.
    """

    memory: float
    bf16_flops: float
    fp32_flops: float
    memory_bandwidth: float
    link: float
    network: float
    overhead: float = 1.5 * GIB
    launch: float = 2.5e-6

    @property
    def traffic_rate(self) -> float:
        """Bytes/s that kernels reach."""
        return _TRAFFIC * self.memory_bandwidth

    @property
    def product_rate(self) -> float:
        """FLOP/s that float32 products reach."""
        return _FP32_PRODUCTS * self.fp32_flops

    def rate(self, unit: Unit, *, is_half: bool, is_backward: bool = False) -> float:
        """FLOP/s that a kernel reaches.

        Args:
            unit: what it does.
            is_half: in bf16 or fp16.
            is_backward: of attention.
        """
        if not is_half:
            return self.product_rate
        if unit is Unit.attention:
            forward = min(_ATTENTION * self.bf16_flops, _LARGEST_ATTENTION)
            return _ATTENTION_BACKWARD * forward if is_backward else forward
        return _BF16_PRODUCTS * self.bf16_flops


GPUS = {
    "h100": Gpu(79.1 * GIB, 989e12, 67e12, 3.35e12, 450e9, 50e9),
    "h200": Gpu(139.8 * GIB, 989e12, 67e12, 4.8e12, 450e9, 50e9),
    "a100-80": Gpu(79.1 * GIB, 312e12, 19.5e12, 2.0e12, 300e9, 25e9),
    "l40s": Gpu(44.4 * GIB, 362e12, 91.6e12, 0.864e12, 32e9, 12.5e9),
    "4090": Gpu(23.5 * GIB, 165e12, 82.6e12, 1.008e12, 16e9, 3e9),
    # One core, measured (scripts' CPU, loaded): 90 GFLOP/s in fp32, 380 in bf16 with AMX.
    "cpu": Gpu(0.0, 380e9, 90e9, 10e9, 5e9, 1e9, overhead=0.0),
}
