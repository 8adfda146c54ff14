"""Training states to continue from, and weights for others to load. Nothing here unpickles objects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from segdistill.errors import InputError, SegdistillError
from segdistill.files import atomic_write


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Writes tensors and plain types, whole or not at all.

    Raises:
        InputError: the disk is full or refuses.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch's error for a full disk
            raise InputError(
                f"cannot write {path}: the disk is full or refuses: free space and run again"
            ) from error


def load_state(path: Path) -> dict[str, Any]:
    """Reads a state of `save_state`.

    Raises:
        InputError: the file is damaged.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what is damage here
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(
            f"training state {path} is damaged: remove it to train this stage from the start"
        ) from error
    return state


@contextmanager
def restoring(path: Path) -> Iterator[dict[str, Any]]:
    """Gives a state of `save_state` to a block that loads it into networks and optimisers.

    Raises:
        InputError: the file is damaged, or does not fit the networks and optimisers of the block.
    """
    state = load_state(path)
    try:
        yield state
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"training state {path} is of another network or version: remove it to train this stage from the start"
        ) from error


def contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors on the CPU in plain memory format, so that a file does not depend on channels_last.

    >>> contiguous({"w": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)})["w"].is_contiguous()
    True
    """
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_weights(path: Path, network: nn.Module) -> None:
    """Writes a network's state_dict as safetensors, whole or not at all.

    Raises:
        InputError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        # clone: tied or sliced tensors share memory, which safetensors refuses
        tensors = {name: t.clone() for name, t in contiguous(network.state_dict()).items()}
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            raise InputError(f"cannot write {path}: {error}") from error


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads safetensors weights into a network of the same architecture.

    Raises:
        InputError: no such file, not safetensors, or of another architecture (names the first tensors that differ).
    """
    try:
        tensors = load_file(path)
    except FileNotFoundError as error:
        raise InputError(f"no weights at {path}: train that stage first") from error
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error
    expected = network.state_dict()
    misfits = [
        name for name in expected if name not in tensors or tensors[name].shape != expected[name].shape
    ]
    misfits += [name for name in tensors if name not in expected]
    if misfits:
        shown = ", ".join(misfits[:3])
        raise InputError(
            f"{path} holds weights of another architecture: {len(misfits)} tensors differ ({shown}, ...)"
        )
    network.load_state_dict(tensors)


def load_part(path: Path, network: nn.Module, without: tuple[str, ...]) -> None:
    """As `load_weights`, but leaves weights unchanged whose names begin with one of `without`.

    Raises:
        InputError: as `load_weights`, or no other weights are left.
    """
    kept = {name: value.clone() for name, value in network.state_dict().items() if name.startswith(without)}
    if len(kept) == len(network.state_dict()):
        raise InputError(
            f"nothing to load from {path}: all weights of the network are {' or '.join(without)}"
        )
    load_weights(path, network)
    network.load_state_dict(kept, strict=False)


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Loads an optimiser's state with each tensor in its parameter's memory format.

    A moment in another format than its parameter gives the same values only up to rounding, and resumed training
    must be bit-identical.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


class TrainingStopped(SegdistillError):
    """Training stopped on NaN or infinity; the last good checkpoint is kept."""


def to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as floats, with one transfer from the device for all of them.

    >>> to_floats({"loss": torch.tensor(0.5)})
    {'loss': 0.5}
    """
    return dict(zip(values, torch.stack(list(values.values())).float().tolist(), strict=True))


def check_values(values: Mapping[str, float], epoch: int, step: int) -> None:
    """Stops on NaN or infinity.

    Raises:
        TrainingStopped: names the values, and the place in training (`epoch` and `step` count from 0).

    >>> check_values({"loss": float("nan")}, 0, 11)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    segdistill.training.checkpoint.TrainingStopped: training stopped: loss is NaN at step 12 of epoch 1: lower ...
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        found = "NaN" if math.isnan(values[bad[0]]) else "infinite"
        raise TrainingStopped(
            f"training stopped: {', '.join(bad)} is {found} at step {step + 1} of epoch {epoch + 1}: lower "
            "optimizer.lr, set clip_norm, or set precision=fp32, which trains this stage from the start; the last good "
            "checkpoint is kept"
        )


def check_weights(networks: Mapping[str, nn.Module], epoch: int, step: int) -> None:
    """As `check_values`, for weights: a gradient can be infinite while the loss is not. Bad weights are never saved.

    >>> check_weights({"net": nn.Linear(1, 1)}, 0, 0)
    """
    sums = {
        f"a weight of {name}": torch.stack([weight.detach().sum() for weight in network.parameters()]).sum()
        for name, network in networks.items()
    }
    check_values(to_floats(sums), epoch, step)
