"""Anybody's network, named by its import path, under the contract of ours."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segdistill.errors import InputError, first_line
from segdistill.models.network import FeatureInfo, Network, Output, require_positive
from segdistill.models.registry import register_network
from segdistill.models.u2net import enlarge_like
from segdistill.registry import near_names

NAMES = {
    "in_channels": ("in_channels", "in_chans", "input_channels", "n_channels"),
    "classes": ("classes", "num_classes", "out_channels", "n_classes"),
}
"""What others call the two numbers that we know; filled in where the target has such a parameter."""


@register_network("external", "any nn.Module by its import path, module:callable", kind="external")
class External(Network):
    """Wraps the nn.Module that `target` makes: hooks give its named features, its answer becomes an `Output`.

    The answer may be (B, classes, H, W) logits (at another size they are enlarged bilinearly), a (B, classes)
    label, a sequence of logits (the first is `logits`, the others `deep`), or a dict with "out" or "logits". Made for
    MONAI, segmentation_models_pytorch, timm and a user's own file; the target runs with the rights of whoever
    starts it, so name only code that you trust.

    Args:
        in_channels: channels of the image; handed to the target where it has a parameter of a usual name (see
            `NAMES`) that `arguments` leaves open.
        classes: channels of the logits or of the label; handed on likewise.
        target: "module:callable", for instance "monai.networks.nets:BasicUNet".
        arguments: keyword arguments for the callable.
        features: name -> path of a submodule whose (B, channels, h, w) output is that feature, as
            `named_modules` spells it; use the names "encoder" and "decoder" for the usual two.
        size_divisor: what heights and widths must be multiples of.
        probe: height (= width) in pixels of the image that is tried once to learn channels and strides.

    Raises:
        InputError: no such module, callable or feature, or an answer that fits none of the forms above.

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
    ) -> None:
        super().__init__(in_channels, classes, size_divisor)
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
        """(B, in_channels, H, W) -> what the wrapped network says, with the features that were asked for."""
        self.check(image)
        self.layers.maps.clear()
        answer = self.network(image)
        features = {name: self.layers.maps[name] for name in self.names}
        self.layers.maps.clear()
        return self._output(answer, image)._replace(features=features)

    def _output(self, answer: Any, image: Tensor) -> Output:
        if isinstance(answer, Output):
            return answer
        if isinstance(answer, dict):
            answer = answer.get("out", answer.get("logits"))
        deep: Sequence[Any] = ()
        if isinstance(answer, (list, tuple)) and answer:
            answer, deep = answer[0], [level for level in answer[1:] if _like(level, answer[0])]
        if not isinstance(answer, Tensor) or answer.ndim not in (2, 4):
            raise InputError(
                f"{self.target} answers {_spell(answer)}: it must give logits (batch, classes, height, width) "
                "or a label (batch, classes)"
            )
        if answer.shape[1] != self.classes:
            raise InputError(
                f"{self.target} gives {answer.shape[1]} channels for classes={self.classes}: "
                "set its number of classes in arguments"
            )
        if answer.ndim == 2:
            return Output(None, {}, label=answer)
        if answer.shape[2:] != image.shape[2:]:
            answer = enlarge_like(answer, image)
        return Output(answer, {}, deep=deep)

    def _probe(self, size: int) -> list[FeatureInfo]:
        device = next((value.device for value in self.parameters()), torch.get_default_device())
        image = torch.zeros(1, self.in_channels, size, size, device=device)
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
        if map_.ndim != 4 or map_.shape[2] != map_.shape[3] or map_.shape[2] > size or size % map_.shape[2]:
            raise InputError(
                f"feature '{name}' of {self.target} is {tuple(map_.shape)} for an image of {size} x {size}: "
                "name a submodule that gives (batch, channels, height, width) of a whole stride"
            )
        if map_._version != self.layers.versions[name]:
            raise InputError(
                f"feature '{name}' of {self.target} is changed in place by a later layer: name that layer instead"
            )
        return FeatureInfo(name, map_.shape[1], size // map_.shape[2])


class _Layers:
    """The maps of the run in progress by feature name, and how often each had been changed in place."""

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
            raise InputError(f"feature '{self.name}' is {_spell(map_)}: name a submodule that gives a tensor")
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
        raise InputError(f"target {target!r} is no import path: write module:callable, as in torch.nn:Conv2d")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:  # another's module may fail in any way
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
