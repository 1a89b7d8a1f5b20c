"""What the operating system knows about this process: memory and processor time, read when asked for.

And what it allows: open files, of which every client takes one, and processors.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

if sys.platform != "win32":
    import resource

_STATM: Final = Path("/proc/self/statm")
# What a container may use of the processors: microseconds, or "max", in a period. Source: Linux, cgroup v2.
_CPU_MAX: Final = Path("/sys/fs/cgroup/cpu.max")
_LOADAVG: Final = Path("/proc/loadavg")
# Files besides the clients' sockets: the engine opens up to 1,024, the rest is listeners, logs and the like.
_OTHER_FILES: Final = 1200
# Where the limit does not allow for that, a tenth of it stays free of clients, but at least so many files:
# an engine with little data in it has some twenty open.
_OTHER_FILES_MIN: Final = 100


def room_for_clients(count: int) -> int:
    """Raise the limit of open files so that it allows for `count` clients; return how many fit."""
    if sys.platform == "win32":
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return count
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    except (OSError, ValueError):  # macOS has a further limit that it does not tell
        limit = soft
    others = min(_OTHER_FILES, max(limit // 10, _OTHER_FILES_MIN))
    return min(count, max(limit - others, 1))


def usable_processors() -> float:
    """Return how many processors the process may keep busy; a container's share may be half of one."""
    count = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    try:
        quota, period = _CPU_MAX.read_text().split()
        return min(count, int(quota) / int(period))
    except (OSError, ValueError):  # there is no such limit
        return count


def running_tasks() -> int:
    """Return how many tasks of the machine run or would like to, this one included; 0 where it does not tell."""
    try:
        return int(_LOADAVG.read_text().split()[3].partition("/")[0])
    except OSError:
        return 0


def resident_bytes() -> int:
    """Return the memory that the process holds, 0 where the system does not tell."""
    if sys.platform != "linux":
        return peak_resident_bytes()  # the nearest that systems without /proc tell
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """Return the most memory that the process has held, 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, the others KiB


def system_bytes() -> int:
    """Return the memory of the machine, 0 where the system does not tell."""
    if sys.platform == "win32":
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def processor_seconds() -> dict[str, float]:
    """Return the processor time used so far: by the process, its children and this thread."""
    if sys.platform == "win32":
        times = os.times()
        return {"sys": times.system, "user": times.user}
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = {
        "sys": own.ru_stime,
        "user": own.ru_utime,
        "sys_children": children.ru_stime,
        "user_children": children.ru_utime,
    }
    if sys.platform == "linux":
        thread = resource.getrusage(resource.RUSAGE_THREAD)
        found |= {"sys_main_thread": thread.ru_stime, "user_main_thread": thread.ru_utime}
    return found
