"""Every network by name; `create_network` checks what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from segdistill.errors import InputError
from segdistill.registry import Part, Registry, fit_options, near_names

if TYPE_CHECKING:
    from torch import nn

B = TypeVar("B", bound=Callable[..., Any])
Kind = Literal["segmenter", "classifier", "joint", "discriminator", "external"]

NETWORKS: Registry[nn.Module] = Registry("network", "segdistill.models", "train")
list_networks = NETWORKS.names


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of a network before it is built.

    Attributes:
        kind: what it returns: a segmenter logits, a classifier a label, a joint network both; of an external network
            only its target knows.
        fixed: options that its name decides, such as the depth in "resnet50".
        presets: preset name -> options, where one name means several networks.
        cpu_precision: what the training setting `auto` means on a CPU that has bf16: fp32 for the networks whose
            step it makes slower (docs/results/networks-speed.md).
    """

    kind: Kind = "segmenter"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cpu_precision: Literal["bf16", "fp32"] = "bf16"


def register_network(
    name: str,
    summary: str = "",
    *,
    kind: Kind = "segmenter",
    fixed: Mapping[str, Any] | None = None,
    presets: Mapping[str, Mapping[str, Any]] | None = None,
    cpu_precision: Literal["bf16", "fp32"] = "bf16",
) -> Callable[[B], B]:
    """Decorator that registers a class or function which makes a network; one line for each of its names.

    It is called with `in_channels` and `classes`, and with the options of a recipe.

    Args:
        name: in recipes.
        summary: one line for lists; by default the first line of the docstring.
        kind: see `NetworkFacts`.
        fixed: see `NetworkFacts`.
        presets: see `NetworkFacts`.
        cpu_precision: see `NetworkFacts`.

    Raises:
        InputError: another network has that name.

    >>> from torch import nn
    >>> from segdistill.models.network import Output
    >>> @register_network("one_by_one", "a single 1x1 convolution")
    ... class OneByOne(nn.Module):
    ...     def __init__(self, in_channels: int = 3, classes: int = 2, *, bias: bool = True) -> None:
    ...         super().__init__()
    ...         self.head = nn.Conv2d(in_channels, classes, 1, bias=bias)
    ...     def forward(self, image):
    ...         return Output(self.head(image), {})
    >>> create_network("one_by_one", in_channels=1, bias=False).head.weight.shape
    torch.Size([2, 1, 1, 1])
    """
    facts = NetworkFacts(kind, fixed or {}, presets or {}, cpu_precision)
    return NETWORKS.register(name, summary, **asdict(facts))


def create_network(
    name: str, in_channels: int = 3, classes: int = 2, *, preset: str | None = None, **options: Any
) -> nn.Module:
    """Builds a network by its registered name.

    Args:
        name: one of `list_networks()`; or "module:callable" for a network from another package, short for the name
            "external" with the option `target` (see `external.External` for its other options).
        in_channels: channels of the image.
        classes: channels of the logits; 1 means one sigmoid logit.
        preset: a named set of options, where the name means several networks.
        options: what the network's constructor takes; they win over the preset.

    Raises:
        InputError: unknown name (with near names), preset or option, or an option of the wrong type.
        MissingExtra: torch is not installed.

    >>> create_network("simplified_unet", in_channels=1, widths=[4, 8]).size_divisor
    2
    >>> create_network("vit_b17")
    Traceback (most recent call last):
    ...
    segdistill.errors.InputError: unknown network 'vit_b17': did you mean 'vit_b16'?
    """
    if ":" in name and options.setdefault("target", name) != name:
        raise InputError(f"target {options['target']!r} is not {name}: name the network once")
    part, facts = _part(name), network_facts(name)
    if preset is not None and preset not in facts.presets:
        raise InputError(f"unknown preset '{preset}' of {name}: {near_names(preset, facts.presets)}")
    for option in facts.fixed:
        if option in options:
            raise InputError(f"option '{option}' of {name} is fixed by its name: leave it out")
    known = {option: parameter.annotation for option, parameter in part.options.items()}
    given = {"in_channels": in_channels, **({"classes": classes} if "classes" in known else {})}
    given |= {**(facts.presets[preset] if preset else {}), **options, **facts.fixed}
    shown = [option for option in known if option not in ("in_channels", "classes", *facts.fixed)]
    return part.build(**fit_options(f"network '{name}'", given, known, shown))


def network_facts(name: str) -> NetworkFacts:
    """What is known of a network before it is built.

    Raises:
        InputError: unknown name, with the near ones.

    >>> network_facts("unet").kind, network_facts("torch.nn:Conv2d").kind
    ('segmenter', 'external')
    """
    return NetworkFacts(**_part(name).facts)


def _part(name: str) -> Part[nn.Module]:
    return NETWORKS.find("external" if ":" in name else name)
