"""Mixed precision: products in bfloat16 where a device takes them twice as fast or more, for what bears the rounding.

Factors and results of products are rounded to 8 bits; weights and the residual stream stay in float32. Statistics and
linear systems do not bear that. Training towards hidden states does, which are off by far more: docs/research.md.

Source: mixed-precision training, arXiv 1710.03740; in bfloat16 losses need no scaling, arXiv 1905.12322.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

LEAST_WIDTH = 256
"""Width of hidden states from which it pays: half as wide, it saves a sixth of the time (docs/research.md)."""


def mixed_precision(hidden: Tensor) -> AbstractContextManager[object]:
    """Give a context in which layers multiply in bfloat16, if that pays where these hidden states are.

    Nothing changes for a model that is not in float32, for a narrow one, or on a device without units for it.
    """
    wide = hidden.dtype is torch.float32 and hidden.shape[-1] >= LEAST_WIDTH
    if not (wide and multiplies_bfloat16(hidden.device)):
        return nullcontext()
    return torch.autocast(hidden.device.type, dtype=torch.bfloat16)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Tell whether a device has units that multiply matrices in bfloat16: tensor cores, or a processor's AMX.

    Instructions for vectors alone (AVX512-BF16) save nothing here: docs/research.md. Where an older PyTorch does not
    tell what a processor has, it has none.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    return device.type == "cpu" and capabilities is not None and bool(capabilities().get("amx_bf16"))
