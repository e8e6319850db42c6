"""How weights lie in a bundle: small on disk, single precision when they run.

`half`: convolution kernels in half precision. `int8`: large kernels in 8 bits with one scale for each
slice of their first axis, the others in half precision. Biases and batch norms stay in single
precision: running variances would overflow half precision. No pickles: safetensors.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from c3s3_seg.errors import InputError
from c3s3_seg.system.choices import Storage

SCALE = ".scale"  # name of a kernel's scales: the kernel's own and this
LARGE = 2**14  # numbers in a kernel from which 8 bits pay: stems and output layers stay exact
LEVELS = 127


def to_bytes(net: nn.Module, storage: Storage = "half") -> bytes:
    """The content of a safetensors file with a network's weights."""
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
    """The state dict in single precision.

    Parameters
    ----------
    content
        Of a safetensors file.
    path
        Where it was, for the message.

    Raises
    ------
    InputError
        If it is not safetensors, or a kernel in 8 bits lacks its scales, or has not one for each slice.
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
            tensor = tensor.float() * _spread(scale, tensor)
        state[name] = tensor.float() if tensor.is_floating_point() else tensor
    return state


def _quantise(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric: the largest weight of a slice becomes 127."""
    scale = kernel.abs().flatten(1).amax(dim=1).clamp_min(1e-12) / LEVELS
    return (kernel / _spread(scale, kernel)).round().to(torch.int8), scale


def _spread(scale: Tensor, kernel: Tensor) -> Tensor:
    return scale.reshape(-1, *[1] * (kernel.dim() - 1))
