"""`treadle doctor`: what this machine, its limits and the environment give, and what was left behind."""

from __future__ import annotations

import json
import os
import platform
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import _context, _engine, _launch


def report(clean: bool = False) -> dict[str, Any]:
    """All findings, by section; `clean` removes the segments that dead processes left."""
    return {
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
            "gil": getattr(sys, "_is_gil_enabled", lambda: True)(),
            "executable": sys.executable,
            "start_method": "zygote" if _launch.interpreter() else "fork",
            "kernel": platform.release(),
            "machine": platform.machine(),
        },
        "cpus": cpus(),
        "memory": memory(),
        "segments": segments(clean),
        "descriptors": descriptors(),
        "system": system_calls(),
        "options": options(),
    }


def cpus() -> dict[str, Any]:
    """The CPU budget, and what decided it."""
    budget = _engine.budget()
    share = _context.cpu_share()
    found: dict[str, Any] = {
        "cpus": budget["cpus"],
        "limit": budget["limit"],
        "online": budget["online"],
        "affinity": budget["affinity"],
        "quota": budget["quota"],
        "quota_file": budget["quota_file"],
    }
    if share is not None:
        found.update(cpus=share, limit=f"this process's share ({_context.THREADS})")
    return found


def memory() -> dict[str, Any]:
    """What limits memory, in bytes."""
    budget = _engine.budget()
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return {
        "total": budget["memory_total"],
        "usable": budget["memory"],
        "address_space": None if soft == resource.RLIM_INFINITY else soft,
        "dev_shm": dev_shm(),
    }


def dev_shm() -> dict[str, Any] | None:
    """The size of /dev/shm, which only named segments need."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return {"size": found.f_frsize * found.f_blocks, "free": found.f_frsize * found.f_bavail}


def segments(clean: bool) -> dict[str, Any]:
    """The user's named segments (`SharedMemory`) that go with their last holder, and who sees to it."""
    fields = ("name", "size", "held", "removed")
    try:
        rows = sorted(_engine.segments_sweep(clean))
    except OSError:
        rows = []
    return {
        "guardian": _engine.segments_guarded(),
        "tracked": [dict(zip(fields, row, strict=True)) for row in rows],
    }


def descriptors() -> dict[str, Any]:
    """The limit of open descriptors, and how many are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"soft": soft, "hard": hard, "open": len(list(Path("/proc/self/fd").iterdir()))}


def system_calls() -> dict[str, str]:
    """Which of the system calls that the engine prefers are there."""

    def closing(make: Callable[[], int]) -> str:
        try:
            os.close(make())
        except OSError as error:
            return f"refused: {error.strerror}"
        return "yes"

    return {
        "memfd_create": closing(lambda: os.memfd_create("treadle-doctor")),
        "pidfd_open": closing(lambda: os.pidfd_open(os.getpid())),
    }


def options() -> list[dict[str, Any]]:
    """The options, from the engine's one table."""
    _engine.reload_options()
    fields = ("name", "type", "value", "default", "help", "is_set", "problem")
    return [dict(zip(fields, row, strict=True)) for row in _engine.options()]


def as_json(clean: bool = False) -> str:
    """The report for programs."""
    return json.dumps(report(clean), indent=2)


def segment_lines(found: dict[str, Any]) -> list[str]:
    """What is known of segments: all of those that nobody holds, and how many there are."""
    tracked = found["tracked"]
    dead = [segment for segment in tracked if not segment["held"]]
    if not tracked:
        summary = "none"
    elif not dead:
        summary = f"{len(tracked)}, in use"
    elif any(segment["removed"] for segment in dead):
        summary = f"{len(tracked)}, {len(dead)} of them left by dead processes, and removed now"
    else:
        summary = f"{len(tracked)}, {len(dead)} of them left by dead processes: treadle doctor --clean removes those"
    lines = [f"Segments     {summary}"]
    for segment in tracked:
        state = "removed" if segment["removed"] else "in use" if segment["held"] else "of dead processes"
        lines.append(f"             {segment['name']}, {size(segment['size'])}, {state}")
    if tracked and not found["guardian"]:
        lines.append("             no guardian is on duty; the next process that uses one starts it")
    return lines


def as_text(clean: bool = False) -> str:
    """The report for people."""
    found = report(clean)
    python, cpu, mem, files = found["python"], found["cpus"], found["memory"], found["descriptors"]
    lines = [
        f"Python       {python['version']} ({python['executable']}), "
        f"{'with the GIL' if python['gil'] else 'free-threaded'}, Linux {python['kernel']} on {python['machine']}",
        f"CPU budget   {cpu['cpus']}, decided by: {cpu['limit']}",
        f"             {cpu['online']} online, {cpu['affinity']} in the affinity mask, "
        + (f"quota {cpu['quota']:g} ({cpu['quota_file']})" if cpu["quota"] else "no cgroup quota"),
        f"Memory       {size(mem['total'])} in the machine, "
        + (f"a cgroup allows {size(mem['usable'])}" if mem["usable"] < mem["total"] else "no cgroup limit")
        + (f", address space limited to {size(mem['address_space'])}" if mem["address_space"] else ""),
        "/dev/shm     " + (f"{size(mem['dev_shm']['size'])}, not needed by pools" if mem["dev_shm"] else "not there"),
        *segment_lines(found["segments"]),
        f"Descriptors  {files['open']} open of {files['soft']} (hard limit {files['hard']})",
        *(f"{name:<12} {answer}" for name, answer in found["system"].items()),
        f"Start        {python['start_method']} by default",
        "",
        "Options (environment variables; * is set)",
    ]
    for option in found["options"]:
        mark = "*" if option["is_set"] else " "
        lines.append(f"{mark} {option['name']:<21} {option['value'] or '(empty)':<9} {option['help']}")
        if option["problem"]:
            lines.append(f"  {'':<21} refused: {option['problem']}; the default is in force")
    return "\n".join(lines)


def size(count: int) -> str:
    """A number of bytes in the largest unit that fits."""
    value = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.4g} {unit}"
        value /= 1024
    return f"{value:.4g} TiB"
