"""The devices of a run, by Lightning Fabric: one laptop core or many devices."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.rank_zero import rank_zero_only

from segdistill.errors import InputError
from segdistill.training.optimisation import choose_precision

DEVICES = ("auto", "cpu", "gpu")


@dataclass(frozen=True)
class Machine:
    """Device, devices per node and nodes, as Lightning Fabric names them.

    Raises:
        InputError: an unknown device, or fewer than one.

    >>> Machine().device
    'auto'
    """

    device: str = "auto"
    devices: int = 1
    nodes: int = 1

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise InputError(f"unknown device '{self.device}': choose {', '.join(DEVICES)}")
        if self.devices < 1 or self.nodes < 1:
            raise InputError(f"{self.nodes} nodes with {self.devices} devices cannot train: use at least 1")

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes

    def resolve(self) -> torch.device:
        """The device that "auto", "cpu" or "gpu" means on this machine.

        Raises:
            InputError: the device does not exist here.

        >>> Machine("cpu").resolve().type
        'cpu'
        """
        if self.device == "gpu" and not torch.cuda.is_available():
            raise InputError("no CUDA device here: use --device cpu")
        return torch.device("cuda" if self.device != "cpu" and torch.cuda.is_available() else "cpu")


def make_fabric(machine: Machine, precision: str, network: str | None = None) -> Fabric:
    """A Fabric that is not launched yet, for a precision setting of a recipe and a network's name.

    Raises:
        InputError: the devices do not exist here.

    >>> make_fabric(Machine("cpu"), "fp32").world_size
    1
    """
    for name in ("lightning.fabric", "lightning_fabric"):  # environment.json has what it logs at level INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    device = machine.resolve()
    try:
        return Fabric(
            accelerator=device.type,
            devices=machine.devices,
            num_nodes=machine.nodes,
            precision=choose_precision(precision, device, network),  # type: ignore[arg-type]
            strategy="ddp" if machine.processes > 1 else "auto",
        )
    except (ValueError, RuntimeError) as error:
        raise InputError(f"cannot use {machine.devices} x {machine.device}: {error}") from error


def is_first_process() -> bool:
    """Whether this is the process that prepares, reports and writes; known before processes are connected.

    >>> is_first_process()
    True
    """
    return not getattr(rank_zero_only, "rank", 0)
