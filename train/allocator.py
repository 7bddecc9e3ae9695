"""How this process keeps the memory that it frees."""

import ctypes
import sys

# glibc/malloc.h; the largest threshold that glibc takes is 32 MiB.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES, MAPPED_BYTES = 1 << 30, 32 << 20


def keep_freed_memory() -> bool:
    """Keep up to a gigabyte of freed memory for the next step; False where there is no glibc.

    By default glibc gives the activations of every step back to the kernel and has them faulted in
    again, page by page, zeroed. Ours, measured at 0.1 million parameters on one thread of a CPU:
    2,000 to 3,000 faults a step, a tenth of its time; none with this. Peaks do not change.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        set_option = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    given = ((M_MMAP_THRESHOLD, MAPPED_BYTES), (M_TRIM_THRESHOLD, KEPT_BYTES))
    return all(set_option(option, value) for option, value in given)
