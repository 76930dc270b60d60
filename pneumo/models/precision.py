"""The precision that a device computes in: the same for training, evaluation and prediction."""

import torch
from torch import Tensor, nn

from pneumo import UserError

PRECISIONS = ("float32", "tf32", "bf16", "fp16")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The type that torch.autocast uses for `precision`, one of PRECISIONS or auto. None means no autocast.

    Without autocast, `allow_tf32` decides how float32 is computed.
    """
    if precision == "auto":
        if device.type == "cuda":
            has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if has_bf16 else torch.float16
        return torch.bfloat16 if cpu_has_bf16() else None
    if precision in ("fp16", "tf32") and device.type != "cuda":
        raise UserError(
            f"trainer.precision={precision} needs a CUDA device; on a CPU take bf16, float32 or auto."
        )
    return {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def allow_tf32(allowed: bool) -> None:
    """Whether CUDA devices may compute float32 products as TF32, whose mantissa has 10 bits instead of 23.

    By default, torch allows it for convolutions, so the precision float32 has to forbid it.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def cpu_has_bf16() -> bool:
    """True if the CPU has bf16 matrix units. Emulated, ResNet-18 trains at a third of float32's speed."""
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def head_logits(head: nn.Module, features: Tensor) -> Tensor:
    """The logits of `head` for features [B, D]. In evaluation they are always computed in float32.

    Under autocast, logits would have 8 bits, so images and epochs with different scores would tie. Measured
    on 522 images: 415 distinct probabilities, and a calibration error of .0544 instead of .0516. Training
    keeps the autocast type.
    """
    kind = features.device.type
    if head.training or not torch.is_autocast_enabled(kind):
        return head(features)
    with torch.autocast(kind, enabled=False):
        return head(features.float())
