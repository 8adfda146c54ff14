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
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )
