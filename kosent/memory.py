"""How much memory this process may still take (Linux)."""

from __future__ import annotations

from pathlib import Path


def free_memory() -> int:
    """Bytes that the machine can give without paging, or that are left of the control group's limit where that is less."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and limit.read_text().strip().isdigit():
        statistics = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text(encoding="ascii").splitlines())
        files = int(statistics["inactive_file"]) + int(statistics["active_file"])  # given back as soon as it is needed
        free = min(free, int(limit.read_text()) - int(used.read_text()) + files)
    return free
