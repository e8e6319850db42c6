"""Storage of the weights in a bundle: small on disk, single precision when they run.

`half`: convolution kernels in half precision. `int8`: large kernels in 8 bits with one scale for each
slice of their first axis, the others in half precision. Biases and batch norms stay in single precision,
because running variances would overflow half precision. Files are safetensors, not pickles.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from c3s3_seg.errors import InputError
from c3s3_seg.system.choices import Storage

SCALE = ".scale"  # suffix to a kernel's name, which gives the name of its scales
LARGE = 2**14  # numbers in a kernel from which 8 bits pay: stems and output layers stay in half precision
LEVELS = 127


def to_bytes(net: nn.Module, storage: Storage = "half") -> bytes:
    """Return the content of a safetensors file with a network's weights."""
    from safetensors.torch import save

    stored: dict[str, Tensor] = {}
    for name, tensor in net.state_dict().items():
        if not tensor.is_floating_point() or tensor.dim() < 2:
            stored[name] = tensor
        elif storage == "int8" and tensor.numel() >= LARGE:
            stored[name], stored[name + SCALE] = _quantise(tensor)
        else:
            stored[name] = tensor.half()
    return save({name: tensor.contiguous() for name, tensor in stored.items()})


def from_bytes(content: bytes, path: Path) -> dict[str, Tensor]:
    """Return the state dict in single precision.

    Parameters
    ----------
    content
        Content of a safetensors file.
    path
        Path of the file, for the message.

    Raises
    ------
    InputError
        If the file is not safetensors, or an 8-bit kernel lacks its scales, has not one for each slice, or
        has scales other than float32.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        stored = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of numbers that torch does not know
        raise InputError(f"not a safetensors file ({error})", where=path) from error
    state: dict[str, Tensor] = {}
    for name, tensor in stored.items():
        if name.endswith(SCALE):
            continue
        if tensor.dtype == torch.int8:
            scale = stored.get(name + SCALE)
            if scale is None:
                raise InputError(f"'{name}' is in 8 bits and has no scales", where=path)
            if not tensor.shape or scale.shape != tensor.shape[:1]:
                what = f"'{name}' of shape {list(tensor.shape)} is in 8 bits and has scales of shape"
                raise InputError(f"{what} {list(scale.shape)}, wanted one for each slice", where=path)
            if scale.dtype != torch.float32:  # as `to_bytes` writes, and exported graphs take
                found = str(scale.dtype).removeprefix("torch.")
                raise InputError(f"'{name}' has scales of {found}, wanted float32", where=path)
            tensor = tensor.float() * _spread(scale, tensor)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantise(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise symmetrically: the largest weight of a slice becomes 127; return kernel and scales."""
    scale = kernel.abs().flatten(1).amax(dim=1).clamp_min(1e-12) / LEVELS
    return (kernel / _spread(scale, kernel)).round().to(torch.int8), scale


def _spread(scale: Tensor, kernel: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (kernel.dim() - 1))
