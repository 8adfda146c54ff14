"""A tiny prepared store and tasks that train in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from segdistill.data.phantom import write_phantom
from segdistill.data.store import Store, prepare_store
from segdistill.data.views import Views
from segdistill.distillation import Teacher, create_method, create_weighting
from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets, module_key
from segdistill.distillation.methods.lightvessel import feature_autoencoder
from segdistill.imaging.preprocess import Preprocess
from segdistill.losses import create_loss
from segdistill.losses.adversarial import MultiStageLoss
from segdistill.models.network import Output
from segdistill.models.registry import create_network
from segdistill.training.adversarial import Adversarial
from segdistill.training.distillation import Distillation
from segdistill.training.joint import CaseLabels, Joint, JointLoss
from segdistill.training.reconstruction import Reconstruction
from segdistill.training.settings import JointSettings
from segdistill.training.task import Supervised

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
    return create_network("simplified_unet", in_channels=1, widths=[4, 8, 8])


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
        {"soft_prediction": (1.0, create_method("soft_prediction"))},
        hard_weight=0.3,
        finetune=own if finetune else None,
    )


class Adapted(DistillationMethod):
    """A distillation method with learned parts: a 1x1 convolution of its own to each teacher's width (FitNet)."""

    features = ("encoder",)

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        width = student["encoder"].channels
        self.projections = torch.nn.ModuleDict(
            {
                module_key(name): torch.nn.Conv2d(width, layers["encoder"].channels, 1, bias=False)
                for name, layers in teachers.items()
            }
        )

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        return {"encoder": output.features["encoder"].float()}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        difference = self.projections[module_key(network)](student["encoder"]) - teacher["encoder"]
        return difference.square().mean((1, 2, 3))


def adaptive() -> Distillation:
    """AMTD's whole loss with score weights, and a distillation method that learns."""
    teachers = [
        Teacher("unet", network(1), precision=torch.bfloat16),
        Teacher("resnet", small_resnet(2), precision=torch.bfloat16),
    ]
    names = ("attention_transfer", "region_contrast", "soft_prediction")
    methods = {name: (0.1, create_method(name)) for name in names}
    return Distillation(
        network(),
        create_loss("amtd_seg"),
        teachers,
        torch.ones(11, 2),
        methods | {"adapted": (0.1, Adapted())},
        weighting=create_weighting(),
        combine="predictions",
    )


def small_resnet(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return create_network("resnet_attention_unet", in_channels=1, depth=18, base=4)


def reconstruction() -> Reconstruction:
    teacher = network(1)
    torch.manual_seed(0)
    codes = feature_autoencoder(teacher, layers=[2], hidden=8)
    return Reconstruction(codes, Teacher("t", teacher))


def adversarial(
    loss: MultiStageLoss | None = None, accumulate: int = 1, precision: torch.dtype | None = None
) -> Adversarial:
    """Two stages with a discriminator each; the images are as small as these can see."""
    torch.manual_seed(0)
    generator = create_network("us_unet", in_channels=1, classes=1, widths=[4, 8, 8])
    critics = create_network("multi_scale_discriminator", 1, levels=2, width=2)
    loss = loss or MultiStageLoss((1.0, 0.1), (0.05, 0.05))
    return Adversarial(generator, critics, loss, accumulate, precision)


def joint() -> Joint:
    """Classes of all images, locations of every third, in the training and in the validation cases."""
    torch.manual_seed(0)
    student = create_network("simplified_unet_joint", in_channels=1, widths=[4, 8, 8])
    known = [CaseLabels(torch.arange(count) % 2, torch.arange(count) % 3 == 0) for count in (11, 3)]
    return Joint(student, JointLoss(JointSettings()), known[0], known[1])


TASKS: dict[str, Callable[[], Supervised | Distillation | Reconstruction | Adversarial | Joint]] = {
    "supervised": supervised,
    "distillation": distillation,
    "finetuned teachers": lambda: distillation(finetune=True),
    "adaptive weights": adaptive,
    "auto-encoders": reconstruction,
    "joint": joint,
    "adversarial": lambda: adversarial(precision=torch.bfloat16),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "stage"
