"""A device that is not there: tensors that say they are on it, and are computed on the CPU.

What mixes them with tensors of the CPU, other than by moving one, is refused as CUDA refuses it. So code can be run as
on a GPU, with right numbers, where there is none. (CUDA itself cannot be pretended in a torch that is built without.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

NAME = "pretended"
DEVICE = f"{NAME}:0"
aten = torch.ops.aten
# What autocast makes in its own type of numbers.
PRODUCTS = {linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.einsum, torch.bmm, torch.addmm}
MOVES = {aten._to_copy, aten.copy_}
INDICES = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}  # theirs may wait on the CPU
AUTOCAST = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")


class Pretended(Tensor):
    """A tensor of the CPU (``held``) that says it is elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, requires_grad: bool = False) -> Pretended:
        held = _held(held)  # of one that is made anew from itself, as accelerate does
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(cls, held.shape, device=DEVICE, requires_grad=requires_grad, **layout)
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


def _held(x: object) -> object:
    return x.held if isinstance(x, Pretended) else x


def _computed(func, args, kwargs):
    packet, given = func.overloadpacket, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    device, ours = kwargs.get("device"), any(isinstance(x, Pretended) for x in given)
    if device is not None:
        ours = torch.device(device).type == NAME
        kwargs = kwargs | {"device": torch.device("cpu") if ours else device}
    if packet is aten._fused_sdp_choice:
        return 0  # by plain products
    if packet not in MOVES and any(isinstance(x, Pretended) for x in given):
        checked = (
            [x for x in tree_leaves((args[:1], args[2:])) if isinstance(x, Tensor)] if packet in INDICES else given
        )
        if any(not isinstance(x, Pretended) and x.ndim for x in checked):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {DEVICE} and cpu")
    result = func(*tree_map(_held, args), **tree_map(_held, kwargs))
    if func._schema.is_mutable and isinstance(result, Tensor):
        return next(x for x in given if _held(x) is result)
    return tree_map(lambda x: Pretended(x) if isinstance(x, Tensor) else x, result) if ours else result


class _Pretending(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _computed(func, args, kwargs or {})


class _Autocast(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS and torch.is_autocast_enabled(NAME):
            to = torch.get_autocast_dtype(NAME)
            args = tree_map(lambda x: x.to(to) if isinstance(x, Pretended) and x.is_floating_point() else x, args)
        return func(*args, **(kwargs or {}))


@cache
def _register() -> None:
    """Once in a process."""
    AUTOCAST.fallback(torch.library.fallthrough_kernel)
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@contextmanager
def pretending() -> Iterator[None]:
    """While open, the device can be computed on."""
    _register()
    torch._C._set_only_lift_cpu_tensors(True)  # what is made of a list is moved as any other tensor
    try:
        with _Pretending(), _Autocast():
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)


def move(network: nn.Module, device: str) -> nn.Module:
    """Put a network on a device, the one that is not there or another."""
    if device != DEVICE:
        return network.to(device)
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.data.to(DEVICE), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(DEVICE)
    return network
