"""A tiny prepared store and tasks that train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric

from segdistill.data.phantom import write_phantom
from segdistill.data.store import Store, prepare_store
from segdistill.data.views import Views
from segdistill.imaging.preprocess import Preprocess
from segdistill.knowledge import Teacher, create_knowledge
from segdistill.losses import create_loss
from segdistill.models import create_model
from segdistill.training.distillation import Distillation
from segdistill.training.supervised import Supervised

PREPROCESS = Preprocess((32, 32), "grey", 1)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("phantom")
    return prepare_store(write_phantom(folder / "data", 14, size=32), PREPROCESS, folder / "store")


@pytest.fixture
def views(store: Store) -> tuple[Views, Views]:
    ids = store.ids
    return Views(store, ids[:11], PREPROCESS, "light", seed=3), Views(store, ids[11:], PREPROCESS, "none")


@pytest.fixture
def fabric() -> Fabric:
    return Fabric(accelerator="cpu", devices=1, precision="32-true")


def network(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_model("simplified_unet", in_channels=1, widths=[4, 8, 8])


def supervised() -> Supervised:
    return Supervised(network(), create_loss("weight_balance"))


def distillation(finetune: bool = False) -> Distillation:
    teachers = [Teacher(name, network(seed), 0.5, trainable=finetune) for name, seed in (("a", 1), ("b", 2))]
    own = torch.arange(11)[:, None] % 2 == torch.tensor([[0, 1]])
    return Distillation(
        network(),
        create_loss("weight_balance"),
        teachers,
        torch.full((11, 2), 0.5),
        {"soft_prediction": (1.0, create_knowledge("soft_prediction"))},
        hard_weight=0.3,
        finetune=own if finetune else None,
    )


TASKS: dict[str, Callable[[], Supervised | Distillation]] = {
    "supervised": supervised,
    "distillation": distillation,
    "finetuned teachers": lambda: distillation(finetune=True),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stage"
