"""The machine that something was measured on, and the versions of the software."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from segdistill import __version__


def machine() -> dict[str, str]:
    """Name -> value: versions of segdistill and Python, system, processor, cores.

    >>> list(machine())
    ['segdistill', 'python', 'system', 'processor', 'cores']
    """
    return {
        "segdistill": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": str(os.cpu_count()),
    }


INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimd",
    "asimddp",
    "i8mm",
)
"""What decides how fast a network runs on a CPU, as Linux names it."""
FAST_INT8 = ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")


def instruction_sets() -> list[str] | None:
    """Those of `INSTRUCTIONS` that the processor has; None where the system does not list them.

    >>> found = instruction_sets()
    >>> found is None or set(found) <= set(INSTRUCTIONS)
    True
    """
    flags = _cpu_value("flags", "Features")
    return None if flags is None else [name for name in INSTRUCTIONS if name in flags.split()]


def usable_cores() -> int:
    """Cores that this process may use, which a container may limit.

    >>> usable_cores() >= 1
    True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Version of each installed package, or "not installed".

    >>> versions(["no-package-of-this-name"])
    {'no-package-of-this-name': 'not installed'}
    """
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _processor() -> str:
    return _cpu_value("model name") or platform.processor() or "unknown"


def _cpu_value(*names: str) -> str | None:
    """The first value of one of these names in /proc/cpuinfo; None where there is none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    found = (line.partition(":") for line in lines)
    return next((value.strip() for name, _, value in found if name.strip() in names), None)
