"""A network of another package, named by its import path, under the contract of `network.Network`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segdistill.errors import InputError, first_line
from segdistill.models.blocks import Dimensions, enlarge_like
from segdistill.models.network import FeatureInfo, Network, Output, require_positive
from segdistill.models.registry import register_network
from segdistill.registry import near_names

NAMES = {
    "in_channels": ("in_channels", "in_chans", "input_channels", "n_channels"),
    "classes": ("classes", "num_classes", "out_channels", "n_classes"),
}
"""Usual names of the two numbers that are known; passed where the target has such a parameter."""


@register_network("external", "any nn.Module by its import path, module:callable", kind="external")
class External(Network):
    """Wraps the nn.Module that `target` makes: hooks give its named features, its output becomes an `Output`.

    That output may be (B, classes, H, W) logits (at another size they are resized bilinearly), a (B, classes) label, a
    sequence of logits (the first is `logits`, the others `deep`), or a dict with "out" or "logits". Made for MONAI,
    segmentation_models_pytorch, timm and a user's own file. The target runs with your rights: name only code that you
    trust.

    Args:
        in_channels: channels of the image; passed to the target where it has a parameter of a usual name (see
            `NAMES`) that `arguments` does not set.
        classes: channels of the logits or of the label; passed likewise.
        target: "module:callable", for instance "monai.networks.nets:BasicUNet".
        arguments: keyword arguments for the callable.
        features: name -> path of a submodule whose (B, channels, h, w) output is that feature, as
            `named_modules` spells it; use the names "encoder" and "decoder" for the usual two.
        size_divisor: what heights and widths must be multiples of.
        probe: side in pixels of an image, or volume, that is run once, for the channels and strides of the features.
        dimensions: 2 for pictures and slices, 3 where the target takes volumes.

    Raises:
        InputError: no such module, callable or feature, or an output in none of these forms.

    >>> arguments = {"spatial_dims": 2, "features": [4, 4, 4, 4, 4, 4]}
    >>> net = External(1, 2, target="monai.networks.nets:BasicUNet", arguments=arguments,
    ...               features={"encoder": "down_4", "decoder": "upcat_1"}, size_divisor=16)
    >>> net.feature_info
    [FeatureInfo(name='encoder', channels=4, stride=16), FeatureInfo(name='decoder', channels=4, stride=1)]
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 2,
        *,
        target: str = "",
        arguments: dict[str, Any] | None = None,
        features: dict[str, str] | None = None,
        size_divisor: int = 1,
        probe: int = 64,
        dimensions: Dimensions = 2,
    ) -> None:
        super().__init__(in_channels, classes, size_divisor, dimensions=dimensions)
        require_positive(size_divisor=size_divisor, probe=probe)
        if probe % size_divisor:
            raise InputError(f"probe {probe} is not divisible by size_divisor {size_divisor}: use a multiple")
        self.target = target
        self.network = _make(target, dict(arguments or {}), {"in_channels": in_channels, "classes": classes})
        self.layers = _Layers()
        for name, path in (features or {}).items():
            try:
                module = self.network.get_submodule(path)
            except AttributeError:
                known = [known for known, _ in self.network.named_modules() if known]
                raise InputError(f"{target} has no submodule '{path}': {near_names(path, known)}") from None
            module.register_forward_hook(_Layer(name, self.layers))
        self.names = list(features or {})
        self.feature_info = self._probe(probe)

    def forward(self, image: Tensor) -> Output:
        """(B, in_channels, H, W) -> the output of the wrapped network, with the named features."""
        self.check(image)
        self.layers.maps.clear()
        raw = self.network(image)
        features = {name: self.layers.maps[name] for name in self.names}
        self.layers.maps.clear()
        return self._output(raw, image)._replace(features=features)

    def _output(self, raw: Any, image: Tensor) -> Output:
        if isinstance(raw, Output):
            return raw
        if isinstance(raw, dict):
            raw = raw.get("out", raw.get("logits"))
        deep: Sequence[Any] = ()
        if isinstance(raw, (list, tuple)) and raw:
            raw, deep = raw[0], [level for level in raw[1:] if _like(level, raw[0])]
        if not isinstance(raw, Tensor) or raw.ndim not in (2, image.ndim):
            axes = ", ".join(("depth", "height", "width")[-self.dimensions :])
            raise InputError(
                f"{self.target} returns {_spell(raw)}: it must return logits (batch, classes, {axes}) "
                "or a label (batch, classes)"
            )
        if raw.shape[1] != self.classes:
            raise InputError(
                f"{self.target} returns {raw.shape[1]} channels for classes={self.classes}: "
                "set its number of classes in arguments"
            )
        if raw.ndim == 2:
            return Output(None, {}, label=raw)
        if raw.shape[2:] != image.shape[2:]:
            raw = enlarge_like(raw, image)
        return Output(raw, {}, deep=deep)

    def _probe(self, size: int) -> list[FeatureInfo]:
        device = next((value.device for value in self.parameters()), torch.get_default_device())
        image = torch.zeros(1, self.in_channels, *[size] * self.dimensions, device=device)
        training = [module for module in self.modules() if module.training]
        self.eval()
        self.layers.versions.clear()
        try:
            with torch.no_grad():
                features = self(image).features
        except InputError:
            raise
        except KeyError as error:
            raise InputError(f"feature {error} of {self.target}: that submodule did not run") from error
        except Exception as error:
            raise InputError(
                f"{self.target} fails on an image of {self.in_channels} x {size} x {size} "
                f"({first_line(error)}): check arguments, in_channels and probe"
            ) from error
        for module in training:
            module.training = True
        return [self._info(name, map_, size) for name, map_ in features.items()]

    def _info(self, name: str, map_: Tensor, size: int) -> FeatureInfo:
        sides = set(map_.shape[2:])
        if map_.ndim != 2 + self.dimensions or len(sides) != 1 or max(sides) > size or size % max(sides):
            raise InputError(
                f"feature '{name}' of {self.target} is {tuple(map_.shape)} for an image of {size} x {size}: "
                "name a submodule whose output is (batch, channels, height, width) at a whole stride"
            )
        if map_._version != self.layers.versions[name]:
            raise InputError(
                f"feature '{name}' of {self.target} is changed in place by a later layer: name that layer instead"
            )
        return FeatureInfo(name, map_.shape[1], size // map_.shape[2])


class _Layers:
    """The maps of the current pass by feature name, and how often each was changed in place."""

    def __init__(self) -> None:
        self.maps: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}


class _Layer:
    """A forward hook that keeps a module's (first) output; an object, so that deep copies stay whole."""

    def __init__(self, name: str, layers: _Layers) -> None:
        self.name, self.layers = name, layers

    def __call__(self, module: nn.Module, given: Any, out: Any) -> None:
        map_ = out[0] if isinstance(out, (list, tuple)) and out else out
        if not isinstance(map_, Tensor):
            raise InputError(
                f"feature '{self.name}' is {_spell(map_)}: name a submodule whose output is a tensor"
            )
        self.layers.maps[self.name] = map_
        if not (torch.compiler.is_compiling() or map_.is_inference()):
            self.layers.versions[self.name] = map_._version


def _make(target: str, arguments: dict[str, Any], known: dict[str, int]) -> nn.Module:
    factory = _import(target)
    try:
        parameters = set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):  # some callables of C extensions have none
        parameters = set()
    for ours, theirs in NAMES.items():
        open_names = [name for name in theirs if name in parameters]
        if open_names and not any(name in arguments for name in theirs):
            arguments[open_names[0]] = known[ours]
    try:
        network = factory(**arguments)
    except Exception as error:
        raise InputError(f"{target} cannot be built with {arguments}: {first_line(error)}") from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{target} makes a {type(network).__name__}, not a torch.nn.Module")
    return network


def _import(target: str) -> Callable[..., Any]:
    module, _, path = target.partition(":")
    if not module or not path:
        raise InputError(
            f"target {target!r} is not an import path: write module:callable, as in torch.nn:Conv2d"
        )
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # the module may fail in any way
        raise InputError(
            f"cannot import {module} ({first_line(error)}): install it, or put its folder on PYTHONPATH"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise InputError(f"{module} has no '{path}': {near_names(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{target} is a {type(found).__name__}: name a class or a function")
    return cast("Callable[..., Any]", found)


def _like(level: Any, logits: Any) -> bool:
    return isinstance(level, Tensor) and isinstance(logits, Tensor) and level.shape[:2] == logits.shape[:2]


def _spell(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
