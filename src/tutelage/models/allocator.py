"""Keep freed memory in the process, so that the next step does not fault it in again.

In: nothing. Out: whether the C library took the settings.
"""

import ctypes
import sys

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
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, TRIM_BYTES))
