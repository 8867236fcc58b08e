"""A device that is none: the host's memory under PyTorch's spare device type, built on first use.

It stands in for a GPU where there is none. It refuses operators whose tensors lie on different
devices, as a GPU does, and counts what a GPU would have to copy or wait for (see pretended.cpp). It
says nothing about the numbers or the speed of a GPU.
"""

from __future__ import annotations

import shutil
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.utils import cpp_extension

NAME = "pretended"


def missing() -> str:
    """Return why there is no such device, or nothing if there can be one."""
    if torch.cuda.is_available():
        return "there is a GPU, and PyTorch bears one kind of accelerator in a process"
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        return "what it is made of changed from one PyTorch to the next until 2.8"
    if shutil.which("c++") is None:
        return "it needs a C++ compiler"
    return "" if cpp_extension.is_ninja_available() else "it needs ninja"


@cache
def _extension() -> Any:
    """Build and load the extension, and tell PyTorch of the device; takes most of a minute once."""
    source = Path(__file__).with_suffix(".cpp")
    build = f"pretended_{torch.__version__}_{sys.implementation.cache_tag}"
    folder = Path(cpp_extension.get_default_build_root(), build)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "in_use"):
        # PyTorch's own lock outlives a process that is killed, and would be waited for for ever.
        (folder / "lock").unlink(missing_ok=True)
        extension = cpp_extension.load(
            "pretended_device",
            [str(source)],
            extra_cflags=["-O0", "-w"],
            build_directory=str(folder),
        )
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=True)
    torch.Tensor.__deepcopy__ = _deepcopy(torch.Tensor.__deepcopy__)
    return extension


def _module() -> types.SimpleNamespace:
    """Return what PyTorch asks of a device's module, ``torch.cuda`` for a GPU."""
    return types.SimpleNamespace(
        is_available=lambda: True,
        is_initialized=lambda: True,
        current_device=lambda: 0,
        device_count=lambda: 1,
        _is_in_bad_fork=lambda: False,
        manual_seed_all=lambda seed: None,
        get_rng_state=lambda device=None: torch.get_rng_state(),
        set_rng_state=lambda state, device=None: None,
        get_amp_supported_dtype=lambda: [torch.float16],
    )


def _deepcopy(original: Any) -> Any:
    """Return a deep copy that knows the device: PyTorch's own makes a storage of another kind."""

    def deepcopy(tensor: torch.Tensor, memo: dict[int, Any]) -> torch.Tensor:
        if tensor.device.type != NAME:
            return original(tensor, memo)
        if id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
        return memo[id(tensor)]

    return deepcopy


def device() -> torch.device:
    """Return the device."""
    _extension()
    return torch.device(NAME, 0)


@contextmanager
def traffic() -> Iterator[dict[str, int]]:
    """Count what happens meanwhile: copies ``to_device`` and ``to_host``, and ``waits``."""
    before = _extension().counts()
    found: dict[str, int] = {}
    yield found
    found.update({name: n - before[name] for name, n in _extension().counts().items()})
