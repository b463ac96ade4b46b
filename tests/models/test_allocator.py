"""Freed memory stays with the process: page faults are counted by the kernel."""

import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys
from tutelage.models.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes, libc.memset.argtypes = ctypes.c_void_p, [ctypes.c_void_p], [
    ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
libc.malloc.argtypes = [ctypes.c_size_t]
for number in range(9):
    if number == 1:
        before = faults()
    block = libc.malloc(2**26)
    libc.memset(block, 1, 2**26)
    libc.free(block)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is the GNU C library's")
def test_a_large_block_is_faulted_in_once_and_not_at_every_step():
    faults = {
        variant: int(
            subprocess.run(
                [sys.executable, "-c", COUNT_FAULTS, variant], check=True, capture_output=True, text=True
            ).stdout
        )
        for variant in ("default", "keep")
    }
    assert faults["default"] > 8 * 1000, faults
    assert faults["keep"] < 100, faults
