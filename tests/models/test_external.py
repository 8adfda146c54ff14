"""Networks of other people under our contract: MONAI's, and a plain torch one."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from segdistill.errors import InputError
from segdistill.models.registry import create_network, network_facts
from tests.models.contract import ModelContract

BASIC: dict[str, Any] = {
    "arguments": {"spatial_dims": 2, "features": [8, 8, 8, 8, 8, 8], "dropout": 0.0},
    "features": {"encoder": "down_4", "decoder": "upcat_1"},
    "size_divisor": 16,
}


class Toy(nn.Module):
    """Halves the size, and answers in the form that it is asked for."""

    def __init__(self, colours: int, kinds: int, form: str = "tensor") -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(colours, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.pair = Pair()
        self.head = nn.Conv2d(6, kinds, 1)
        self.form = form
        self.never = nn.Identity()

    def forward(self, image: Tensor) -> Any:
        logits = self.head(self.pair(self.body(image))[0])
        return {
            "tensor": logits,
            "deep": [logits, logits[:, :, ::2, ::2], "more"],
            "dict": {"out": logits},
            "label": logits.mean(dim=(2, 3)),
            "text": "no",
            "flat": logits.flatten(),
        }[self.form]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, image: Tensor) -> Tensor:
        out: Tensor = self.relu(self.conv(image))
        return out


def number() -> int:
    return 3


HERE = __name__


class TestMonaiUNet(ModelContract):
    name = "monai.networks.nets:BasicUNet"
    options: ClassVar = BASIC


class TestToyFromTorchAlone(ModelContract):
    name = "external"

    def build(self, in_channels: int = 3, classes: int = 2) -> Any:
        self.options = {  # type: ignore[misc]
            "target": f"{HERE}:Toy",
            "arguments": {"colours": in_channels, "kinds": classes},
            "features": {"encoder": "body", "twice": "pair"},
            "size_divisor": 2,
        }
        return super().build(in_channels, classes)


def toy(form: str = "tensor", classes: int = 2, **options: Any) -> nn.Module:
    return create_network(
        f"{HERE}:Toy", 3, classes, arguments={"colours": 3, "kinds": 2, "form": form}, **options
    )


def test_every_usual_form_of_answer_is_understood() -> None:
    image = torch.rand(2, 3, 16, 16)
    for form in ("tensor", "dict", "deep"):
        output = toy(form).eval()(image)
        assert output.logits.shape == (2, 2, 16, 16)
        assert [tuple(level.shape) for level in output.deep] == ([(2, 2, 4, 4)] if form == "deep" else [])
    output = toy("label").eval()(image)
    assert output.logits is None
    assert output.label.shape == (2, 2)


def test_ours_and_theirs_are_the_same_under_any_name() -> None:
    assert network_facts("a.b:C") == network_facts("external")
    torch.manual_seed(0)
    short = create_network("torch.nn:Conv2d", 3, 2, arguments={"kernel_size": 1})
    torch.manual_seed(0)
    long = create_network("external", 3, 2, target="torch.nn:Conv2d", arguments={"kernel_size": 1})
    image = torch.rand(1, 3, 8, 8)
    assert torch.equal(short.eval()(image).logits, long.eval()(image).logits)


def test_a_copy_keeps_its_own_features() -> None:
    model = toy(features={"encoder": "body"}).eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(1)
        image = torch.rand(2, 3, 16, 16)
        assert not torch.equal(model(image).features["encoder"], other(image).features["encoder"])
    assert len(other(image).features) == 1


def test_it_is_built_on_the_meta_device_and_counted() -> None:
    from segdistill.models.complexity import complexity

    with torch.device("meta"):
        model = create_network("monai.networks.nets:BasicUNet", 1, **BASIC)
    found = complexity(model, (1, 64, 64))
    assert found.macs > 0
    assert found.unused == 0
    with torch.inference_mode():
        assert model(torch.zeros(1, 1, 32, 32, device="meta")).features["decoder"].shape == (1, 8, 32, 32)


def test_it_teaches_and_learns() -> None:
    """A MONAI network as teacher of ours, and as student of ours: one step of soft-prediction distillation."""
    from segdistill.distillation.methods.soft_prediction import SoftPrediction

    torch.manual_seed(0)
    monai = create_network("monai.networks.nets:BasicUNet", 3, **BASIC)
    ours = create_network("simplified_unet", 3, widths=[4, 8])
    image = torch.rand(2, 3, 32, 32)
    target = (torch.rand(2, 32, 32) > 0.5).long()
    method = SoftPrediction()
    for teacher, student in ((monai, ours), (ours, monai)):
        with torch.no_grad():
            taught = method.targets(teacher.eval()(image), target)
        optimiser = torch.optim.SGD(student.parameters(), 0.1)
        losses = []
        for _ in range(5):
            optimiser.zero_grad()
            loss = method(method.targets(student.train()(image), target), taught).mean()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("external", {}, "target '' is not an import path: write module:callable"),
        ("no_such_module:Net", {}, r"cannot import no_such_module \(ModuleNotFoundError"),
        ("torch.nn:Conv2", {}, "torch.nn has no 'Conv2': did you mean 'Conv2d'"),
        ("torch:pi", {}, "torch:pi is a float: name a class or a function"),
        (f"{HERE}:number", {}, "makes a int, not a torch.nn.Module"),
        ("torch.nn:Conv2d", {}, "torch.nn:Conv2d cannot be built with"),
        ("torch.nn:Conv2d", {"target": "torch.nn:Linear"}, "name the network once"),
        (
            "torch.nn:Conv2d",
            {"arguments": 3},
            "network 'torch.nn:Conv2d': arguments is 3: it must be a mapping or none",
        ),
        (
            "torch.nn:Conv2d",
            {"probe": 60, "size_divisor": 16},
            "probe 60 is not divisible by size_divisor 16",
        ),
        (
            "torch.nn:Conv2d",
            {"arguments": {"kernel_size": 1, "in_channels": 5}},
            "fails on an image of 3 x 64 x 64 .* check arguments, in_channels and probe",
        ),
        (
            "torch.nn:Conv2d",
            {"arguments": {"kernel_size": 1, "out_channels": 5}},
            "returns 5 channels for classes=2: set its number of classes in arguments",
        ),
        (
            "monai.networks.nets:BasicUNet",
            BASIC | {"features": {"encoder": "down_5"}},
            "no submodule 'down_5': did",
        ),
    ],
)
def test_wrong_arguments_say_what_is_wrong(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        create_network(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("form", "features", "message"),
    [
        ("text", {}, "returns a str: it must return logits"),
        ("flat", {}, r"returns a tensor \(2048,\): it must return logits"),
        ("tensor", {"x": "never"}, "feature 'x' of .*: that submodule did not run"),
    ],
)
def test_wrong_answers_and_features_are_refused(form: str, features: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy(form, features=features)


def test_a_feature_must_be_a_map_that_stays_as_it_was() -> None:
    with pytest.raises(InputError, match=r"feature 'a' of .* is changed in place by a later layer"):
        create_network(f"{HERE}:InPlace", features={"a": "conv"})
    arguments = {"in_channels": 3, "img_size": 64, "patch_size": 16, "spatial_dims": 2, "hidden_size": 12}
    arguments |= {"num_layers": 1, "num_heads": 2, "mlp_dim": 12, "classification": True}
    with pytest.raises(InputError, match="name a submodule whose output"):
        create_network("monai.networks.nets:ViT", arguments=arguments, features={"encoder": "norm"})


def test_a_network_of_volumes_from_another_package() -> None:
    net = create_network(
        "monai.networks.nets:BasicUNet",
        1,
        3,
        dimensions=3,
        arguments={"spatial_dims": 3, "features": [4, 4, 4, 4, 4, 4]},
        features={"encoder": "down_4", "decoder": "upcat_1"},
        size_divisor=16,
        probe=32,
    )
    assert net.feature_info[0].stride == 16
    assert net(torch.zeros(1, 1, 32, 16, 16)).logits.shape == (1, 3, 32, 16, 16)
    with pytest.raises(InputError, match="depth, height, width"):
        net(torch.zeros(1, 1, 32, 32))
