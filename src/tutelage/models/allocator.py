"""Keep freed memory in the process while steps follow each other, and give it back where an arm ends.

In: nothing. Out: whether the C library took the settings, and whether it gave something back.
"""

import ctypes
import gc
import sys
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
MMAP_BYTES = 2**30  # larger blocks are mapped and returned at once: none of a step's tensors is
TRIM_BYTES = 2**31 - 1  # free memory at the heap's end that may stay; the largest value that `mallopt` takes


def keep_freed_memory() -> bool:
    """Let the GNU C library reuse large blocks instead of returning each to the system.

    By default every tensor above 32 MiB is mapped and unmapped anew, and its pages are faulted in and
    zeroed at first touch: up to a fifth of the processor time of a training step. Freed memory up to 2 GiB stays
    with the process instead, which raises the peak: by a tenth in the benchmark, by 0.8 GiB in the demo. Elsewhere
    than under the GNU C library (macOS, Windows, musl) nothing is done.

    Returns:
        True if the settings are in force.

    Source:
        ``mallopt(3)``; measured by ``python -m benchmarks.allocator``.
    """
    mallopt = _of_c_library("mallopt")
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))


def give_back_memory() -> bool:
    """Return freed memory to the system: for the moment between two arms, when nothing of the last one is wanted.

    Blocks of many sizes from one student leave free pages between blocks that live on (imported modules, caches),
    and the next student, whose blocks come in another order, takes new ones beside them: nothing leaks, and the
    process still grows from arm to arm. The settings of :func:`keep_freed_memory` stay, so no step becomes slower.

    Returns:
        True if something was given back.

    Source:
        ``malloc_trim(3)``; measured by ``python -m benchmarks.memory_of_arms``.
    """
    gc.collect()  # a model and its hooks refer to each other
    malloc_trim = _of_c_library("malloc_trim")
    return malloc_trim is not None and bool(malloc_trim(0))


def _of_c_library(name: str) -> Any | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
