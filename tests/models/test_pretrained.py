from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from segdistill.errors import InputError
from segdistill.files import sha256_file
from segdistill.models.pretrained import load_encoder_weights
from segdistill.models.resnet import ResNet


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """As torchvision publishes them: with a classifier, without step counters."""
    torch.manual_seed(3)
    state = {k: v for k, v in ResNet(18, base=8).state_dict().items() if "num_batches" not in k}
    return {**state, "fc.weight": torch.zeros(1000, 64), "fc.bias": torch.zeros(1000)}


@pytest.fixture
def file(weights: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "resnet18.pth"
    torch.save(weights, path)
    return path


def test_names_are_torchvision_s() -> None:
    names = set(ResNet(50).state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv3.weight",
        "layer1.0.downsample.0.weight",
    } <= names
    assert {"layer4.2.bn3.bias", "layer2.0.downsample.1.num_batches_tracked"} <= names
    assert "downsample.0.weight" not in {
        n.removeprefix("layer1.1.") for n in names if n.startswith("layer1.1.")
    }


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_loads_a_file(weights: dict[str, Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": weights}, path)
    else:
        save_file(weights, path)
    encoder = ResNet(18, base=8)
    load_encoder_weights(encoder, path, sha256_file(path))
    assert all(
        torch.equal(value, weights[key]) for key, value in encoder.state_dict().items() if key in weights
    )


def test_grey_stem_sees_what_a_repeated_grey_image_would(file: Path) -> None:
    colour, grey = ResNet(18, base=8).eval(), ResNet(18, 1, base=8).eval()
    load_encoder_weights(colour, file)
    load_encoder_weights(grey, file)
    image = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            grey(image)[0], colour(image.expand(-1, 3, -1, -1))[0], rtol=1e-4, atol=1e-4
        )


def test_misfit_names_the_first_tensors_and_changes_nothing(file: Path) -> None:
    encoder = ResNet(18, base=4)
    before = encoder.conv1.weight.clone()  # type: ignore[operator, union-attr]
    with pytest.raises(
        InputError, match=r"does not fit this encoder: conv1.weight is 8x3x7x7, not 4x3x7x7; bn1.w.* and"
    ):
        load_encoder_weights(encoder, file)
    assert torch.equal(before, encoder.conv1.weight)  # type: ignore[arg-type]


def test_deeper_weights_are_named_as_not_part_of_it(file: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.pth"
    torch.save({**ResNet(18, base=8).state_dict(), "extra.weight": torch.zeros(1)}, more)
    with pytest.raises(InputError, match=r"extra.weight is not part of it"):
        load_encoder_weights(ResNet(18, base=8), more)


def test_bad_files_are_refused(tmp_path: Path, file: Path) -> None:
    encoder = ResNet(18, base=8)
    with pytest.raises(InputError, match="no weights file"):
        load_encoder_weights(encoder, tmp_path / "missing.pth")
    with pytest.raises(InputError, match="does not have the SHA-256 00000000"):
        load_encoder_weights(encoder, file, "00000000")
    for name in ("text.pth", "text.safetensors", "empty.pth", "empty.safetensors"):
        (tmp_path / name).write_text("not weights" if name.startswith("text") else "")
        with pytest.raises(InputError, match=r"not a|damaged"):
            load_encoder_weights(encoder, tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="save a state_dict"):
        load_encoder_weights(encoder, tmp_path / "list.pth")


def test_url_is_downloaded_once_and_its_hash_checked(file: Path, tmp_path: Path) -> None:
    cache, encoder, digest = tmp_path / "cache", ResNet(18, base=8), sha256_file(file)
    with pytest.raises(InputError, match="give its sha256"):
        load_encoder_weights(encoder, file.as_uri(), cache=cache)
    with pytest.raises(InputError, match="nothing was kept"):
        load_encoder_weights(encoder, file.as_uri(), "12345678", cache=cache)
    assert list(cache.iterdir()) == []
    named = file.rename(file.with_name(f"resnet18-{digest[:8]}.pth"))
    load_encoder_weights(encoder, named.as_uri(), cache=cache)
    url = named.as_uri()
    named.unlink()
    load_encoder_weights(encoder, url, cache=cache)
    with pytest.raises(InputError, match="cannot download"):
        load_encoder_weights(encoder, url, "87654321", cache=cache)
