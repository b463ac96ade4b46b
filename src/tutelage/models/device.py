"""Where a model runs and in which number format, and how that is recorded.

In: ``auto`` or what the user asked for. Out: a ``torch.device``, a ``torch.dtype``, and plain values for provenance.
"""

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tutelage.errors import ModelError

DEVICES = ("auto", "cuda", "mps", "cpu")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHORT_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
BF16_CPU_FEATURES = ("avx512_bf16", "amx_bf16")  # as torch.cpu.get_capabilities and /proc/cpuinfo spell them
CPUINFO = Path("/proc/cpuinfo")


def choose_device(requested: str = "auto") -> torch.device:
    """Choose cuda, else mps, else cpu; or what was asked for.

    Raises:
        ModelError: If the name is unknown or this machine has no such device.
    """
    kind = requested.split(":")[0]
    if kind not in DEVICES:
        raise ModelError(f"Found device {requested!r}, expected one of {', '.join(DEVICES)} (or cuda:N).")
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if has[name]))
    if not has[kind]:
        raise ModelError(f"Device {requested!r} was asked for but torch finds none here. Use `auto` or `cpu`.")
    index = torch.device(requested).index or 0
    if kind == "cuda" and index >= torch.cuda.device_count():
        raise ModelError(
            f"Device {requested!r} was asked for but torch finds {torch.cuda.device_count()} here, counted from 0."
        )
    return torch.device(requested)


def choose_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Choose bfloat16 where the hardware multiplies it, else float32; or what was asked for.

    Raises:
        ModelError: If the name is unknown, or float16 is asked for on a CPU (no kernels worth having).
    """
    if requested == "auto":
        return torch.bfloat16 if has_bf16_units(device) else torch.float32
    name = SHORT_DTYPES.get(requested, requested)
    if name not in DTYPES:
        raise ModelError(f"Found dtype {requested!r}, expected auto or one of {', '.join(DTYPES)}.")
    if name == "float16" and device.type == "cpu":
        raise ModelError("float16 was asked for on a CPU, which has no fast float16 kernels. Use bfloat16 or float32.")
    return DTYPES[name]


def has_bf16_units(device: torch.device) -> bool:
    """Tell whether the device multiplies bfloat16 in hardware (emulation is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and any(name in cpu_features() for name in BF16_CPU_FEATURES)


def cpu_features() -> frozenset[str]:
    """Name the CPU's instruction sets: ``torch.cpu.get_capabilities`` where torch has it, else ``/proc/cpuinfo``."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return frozenset(name for name, value in capabilities().items() if value is True)
    return cpuinfo_flags(CPUINFO)


def cpuinfo_flags(path: Path) -> frozenset[str]:
    """Read the first ``flags`` line of a Linux cpuinfo file; nothing when there is none."""
    if not path.is_file():
        return frozenset()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return frozenset(flags.split())
    return frozenset()


def describe_device(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return what the numbers depend on besides weights and inputs, as plain JSON values.

    The host's name is not in it. What of it identifies a teacher's cache: :func:`identity_of`.
    """
    described = {
        "device": device.type,
        "dtype": dtype_name(dtype),
        "torch": torch.__version__,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        described |= {"name": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    else:
        described |= {"name": platform.machine(), "cpu_capability": torch.backends.cpu.get_cpu_capability()}
        described["bf16_units"] = has_bf16_units(device)
    return described


def identity_of(compute: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of :func:`describe_device` belongs to the identity of a teacher's cache.

    Another number of threads or another release of torch moves sums by less than another batch does, and a cache mixes
    batches anyway: both are recorded and neither makes the teacher read its rows again.
    """
    return {name: value for name, value in compute.items() if name not in ("threads", "torch")}


def dtype_name(dtype: torch.dtype) -> str:
    """Spell ``torch.bfloat16`` as ``bfloat16``."""
    return str(dtype).removeprefix("torch.")
