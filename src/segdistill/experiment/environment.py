"""The machine and the software versions of a result."""

from __future__ import annotations

from pathlib import Path

import torch

from segdistill.experiment.results import read_json
from segdistill.files import write_json
from segdistill.runtime.machine import machine, versions

ENVIRONMENT = "environment.json"
"""In a run's folder that of its last call, in a stage's folder that of its training."""

CHANGED = "changed during training"
PACKAGES = ("torch", "numpy", "lightning-fabric", "albumentations", "onnxruntime", "Pillow")


def environment(device: torch.device, precision: str, processes: int = 1) -> dict[str, str]:
    """Name -> value of everything that bit-exact repetition depends on.

    >>> environment(torch.device("cpu"), "32-true")["precision"]
    '32-true'
    """
    own = {
        "threads": str(torch.get_num_threads()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "precision": precision,
        "processes": str(processes),
    }
    return machine() | own | versions(PACKAGES)


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """What changed between two environments, one line each.

    >>> differences({"threads": "2"}, {"threads": "1"})
    ['threads was 2, is 1']
    """
    return [
        f"{name} was {value}, is {now.get(name)}"
        for name, value in before.items()
        if name != CHANGED and now.get(name) != value
    ]


def record_environment(folder: Path, now: dict[str, str], goes_on: bool) -> None:
    """Writes the environment of a stage; of an interrupted training also what changed in between.

    >>> import tempfile
    >>> stage = Path(tempfile.mkdtemp())
    >>> record_environment(stage, {"threads": "2"}, goes_on=False)
    >>> record_environment(stage, {"threads": "1"}, goes_on=True)
    >>> read_json(stage / ENVIRONMENT)["changed during training"]
    'threads was 2, is 1'
    """
    before = read_json(folder / ENVIRONMENT) if goes_on else {}
    changes = [text for text in (before.get(CHANGED), *differences(before, now)) if text]
    write_json(folder / ENVIRONMENT, now | ({CHANGED: "; ".join(changes)} if changes else {}))
