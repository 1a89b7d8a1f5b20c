"""What the operating system knows about this process: memory and processor time, read when asked for."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

_STATM: Final = Path("/proc/self/statm")


def resident_bytes() -> int:
    """Return the memory that the process holds, 0 where the system does not tell."""
    try:
        pages = int(_STATM.read_text().split()[1])
    except OSError:
        return peak_resident_bytes()  # the nearest that systems without /proc tell
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Return the most memory that the process has held, 0 where the system does not tell."""
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others KiB


def system_bytes() -> int:
    """Return the memory of the machine, 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def processor_seconds() -> dict[str, float]:
    """Return the processor time used so far: by the process, its children and this thread."""
    times = os.times()
    found = {
        "user": times.user,
        "sys": times.system,
        "user_children": times.children_user,
        "sys_children": times.children_system,
    }
    if resource is not None and hasattr(resource, "RUSAGE_THREAD"):
        thread = resource.getrusage(resource.RUSAGE_THREAD)
        found |= {"user_main_thread": thread.ru_utime, "sys_main_thread": thread.ru_stime}
    return found
