"""Weights and training state: whole or absent, never unpickled, and clear about what does not fit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from segdistill.errors import InputError
from segdistill.models.registry import create_network
from segdistill.training.checkpoint import load_optimizer, load_state, load_weights, save_state, save_weights


def test_round_trip_from_channels_last(tmp_path: Path) -> None:
    network = create_network("simplified_unet", widths=[4, 8]).to(memory_format=torch.channels_last)
    save_weights(tmp_path / "w.safetensors", network)
    other = create_network("simplified_unet", widths=[4, 8])
    load_weights(tmp_path / "w.safetensors", other)
    for name, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_another_architecture_names_what_differs(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", create_network("simplified_unet", widths=[4, 8]))
    with pytest.raises(InputError, match=r"another architecture: \d+ tensors differ \(\w+"):
        load_weights(tmp_path / "w.safetensors", create_network("simplified_unet", widths=[4, 16]))


@pytest.mark.parametrize("content", [b"", b"not safetensors", b"\xff" * 64])
def test_damaged_weights(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_weights(tmp_path / "w.safetensors", nn.Linear(1, 1))
    with pytest.raises(InputError, match="train that stage first"):
        load_weights(tmp_path / "absent.safetensors", nn.Linear(1, 1))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil-was-here"),))


def test_a_pickled_object_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "state.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="damaged"):
        load_state(tmp_path / "state.pt")
    torch.save({"x": Evil()}, tmp_path / "state2.pt")
    with pytest.raises(InputError, match="damaged"):
        load_state(tmp_path / "state2.pt")
    assert not (tmp_path / "evil-was-here").exists()


def test_a_failed_write_keeps_the_old_state(tmp_path: Path) -> None:
    save_state(tmp_path / "s.pt", {"epoch": 1})
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever torch makes of it
        save_state(tmp_path / "s.pt", {"epoch": lambda: 2})
    assert load_state(tmp_path / "s.pt") == {"epoch": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["s.pt"]


def test_optimizer_moments_follow_their_parameters_format() -> None:
    def make() -> tuple[nn.Conv2d, torch.optim.Adam]:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(layer.parameters())
        layer(torch.rand(1, 3, 8, 8)).sum().backward()
        optimizer.step()
        return layer, optimizer

    layer, optimizer = make()
    state = optimizer.state_dict()
    for values in state["state"].values():
        for name, value in values.items():
            values[name] = value.contiguous().clone()
    load_optimizer(optimizer, state)
    moment = optimizer.state[layer.weight]["exp_avg"]
    assert moment.stride() == layer.weight.stride()
