"""LightVessel: similarity of encoder and decoder features (FSD), and similarity of errors (ASD)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.base import STUDENT, DistillationMethod, Layers, Targets, register_method
from segdistill.distillation.layers import declared_layers
from segdistill.distillation.maps import exact, logits_of, mask_of, mean_over_positions
from segdistill.errors import InputError
from segdistill.losses import probabilities
from segdistill.models.network import Output
from segdistill.options import fit_option

Latent = Literal["scalar", "vector", "per_channel"]
Pairs = str | Sequence[int] | Sequence[Sequence[str]]

PAIR = ("pair_encoder|enc@4", "pair_decoder|dec@4")
"""The symmetric pair at a quarter of the image's size that LightVessel's group uses: the pair that a network names
after its paper, or else the ends of the encoder's and of the decoder's stride 4."""


def parse_pairs(layers: Pairs) -> tuple[tuple[str, str], ...]:
    """Pairs of (encoder, decoder) layers: "pair" for the published one, strides, or pairs one by one.

    >>> parse_pairs([2, 4])
    (('enc@2', 'dec@2'), ('enc@4', 'dec@4'))
    >>> parse_pairs([["enc2", "dec2"]])
    (('enc2', 'dec2'),)

    Raises:
        InputError: none of these.
    """
    if layers == "pair":
        return (PAIR,)
    found = []
    for pair in layers if not isinstance(layers, str) else ():
        if isinstance(pair, int) and not isinstance(pair, bool):
            found.append((f"enc@{pair}", f"dec@{pair}"))
        elif isinstance(pair, (list, tuple)) and [type(layer) for layer in pair] == [str, str]:
            found.append((pair[0], pair[1]))
    if not found or len(found) < len(layers):
        raise InputError(
            f"feature_similarity: layers {layers!r} is neither pair, nor a list of strides such as [2, 4], "
            "nor one of pairs such as [[enc2, dec2]]"
        )
    return tuple(found)


class PositionCoder(nn.Module):
    """An MLP auto-encoder of the positions of a channel (LightVessel, section 3.2: "the MLP").

    The feature is pooled to grid x grid positions (of volumes grid x grid x grid), and every channel is encoded alone.

    Args:
        code: numbers that a channel becomes.
        grid: positions per side after pooling.
        hidden: width of the hidden layers.
        dimensions: 2 for pictures, 3 for volumes.

    >>> coder = PositionCoder(1, grid=4, hidden=8)
    >>> coder.squeeze(coder.pool(torch.zeros(2, 24, 64, 64))).shape
    torch.Size([2, 24, 1])
    """

    def __init__(self, code: int, grid: int = 16, hidden: int = 64, dimensions: int = 2) -> None:
        super().__init__()
        self.grid, count = grid, grid**dimensions
        self.average = F.adaptive_avg_pool2d if dimensions == 2 else F.adaptive_avg_pool3d
        self.squeeze = nn.Sequential(nn.Linear(count, hidden), nn.GELU(), nn.Linear(hidden, code))
        self.spread = nn.Sequential(nn.Linear(code, hidden), nn.GELU(), nn.Linear(hidden, count))

    def pool(self, feature: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, grid^2), of volumes (B, C, grid^3), in float32."""
        return self.average(feature.float(), self.grid).flatten(2)


class FeatureAutoEncoders(nn.Module):
    """The auto-encoders of one network's layers (LightVessel, section 3.2; Eq. 1: L1 reconstruction).

    Latents of two layers can be compared only where one MLP made both. With an MLP of its own for each layer, the
    similarity of a feature with itself was 0.0009 on coronary, and that of a trained network the 1/512 of random
    vectors: such a similarity carries nothing, whatever its weight.

    Args:
        channels: layer -> channels of the feature.
        latent: "scalar" makes one number of each channel, and so a vector with as many entries as channels; "vector"
            makes 512 numbers of those by a linear map for each layer, as the text can be read; "per_channel" makes a
            vector of each channel.
        shared: one MLP for all layers; False: one for each.
        size: of the latents "vector" and "per_channel"; 512 by default.
        grid: positions per side after pooling.
        hidden: width of the MLP's hidden layers.
        pairs: of an encoder's and a decoder's layer. A decoder's layer with other channels than its encoder's is
            mapped to as many scalars by a linear map, which is trained with the MLP.
        dimensions: of the features, 2 or 3.

    Raises:
        InputError: an option that is too small, or a size that has no meaning.

    >>> codes = FeatureAutoEncoders({"enc@4": 8, "dec@4": 6}, pairs=[("enc@4", "dec@4")])
    >>> codes.encode("dec@4", torch.zeros(2, 6, 32, 32)).shape
    torch.Size([2, 8])
    >>> sorted(codes({"enc@4": torch.zeros(2, 8, 4, 4), "dec@4": torch.zeros(2, 6, 4, 4)}))
    ['dec@4', 'enc@4']
    >>> FeatureAutoEncoders({"e": 24}, "per_channel", size=16).encode("e", torch.zeros(2, 24, 8, 8)).shape
    torch.Size([2, 24, 16])
    """

    def __init__(
        self,
        channels: Mapping[str, int],
        latent: Latent = "scalar",
        shared: bool = True,
        size: int | None = None,
        grid: int = 16,
        hidden: int = 64,
        pairs: Sequence[tuple[str, str]] = (),
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        fit_option("feature_autoencoder: latent", latent, Latent)
        if latent == "scalar" and size is not None:
            raise InputError("feature_autoencoder: size belongs to latent: vector or per_channel: remove it")
        width = 512 if size is None else size
        for option, value in (("size", width), ("grid", grid), ("hidden", hidden)):
            if value < 1:
                raise InputError(f"feature_autoencoder: {option} is {value}, but must be at least 1")
        self.latent, self.channels, self.dimensions = latent, dict(channels), dimensions
        code = width if latent == "per_channel" else 1
        owners = ["all"] if shared else list(channels)
        self.coders = nn.ModuleDict(
            {owner: PositionCoder(code, grid, hidden, dimensions) for owner in owners}
        )
        self.join, self.split = nn.ModuleDict(), nn.ModuleDict()
        partner = {decoder: encoder for encoder, decoder in pairs}
        for layer, count in channels.items():
            wanted = width if latent == "vector" else channels[partner.get(layer, layer)]
            if latent == "vector" or (latent == "scalar" and wanted != count):
                self.join[layer], self.split[layer] = nn.Linear(count, wanted), nn.Linear(wanted, count)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it can encode."""
        return tuple(self.channels)

    def coder(self, layer: str) -> PositionCoder:
        """The MLP of a layer."""
        found = self.coders["all" if "all" in self.coders else layer]
        assert isinstance(found, PositionCoder)
        return found

    def encode(self, layer: str, feature: Tensor) -> Tensor:
        """(B, C, ...) -> latents (B, n), or (B, C, n) per channel, in float32 also under autocast.

        Raises:
            InputError: features of another number of dimensions.
        """
        if feature.ndim != 2 + self.dimensions:
            raise InputError(
                f"feature_similarity: the auto-encoders read features of {self.dimensions} dimensions, and these have "
                f"{feature.ndim - 2}: train them on the same network"
            )
        coder = self.coder(layer)
        with exact(feature):
            code: Tensor = coder.squeeze(coder.pool(feature))
            if self.latent == "per_channel":
                return code
            return self.join[layer](code.squeeze(2)) if layer in self.join else code.squeeze(2)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> (B,) mean absolute error of the reconstruction of its feature (B, C, ...)."""
        return {layer: self._error(layer, features[layer]) for layer in self.layers}

    def _error(self, layer: str, feature: Tensor) -> Tensor:
        coder = self.coder(layer)
        with exact(feature):
            code = self.encode(layer, feature)
            if self.latent != "per_channel":
                code = (self.split[layer](code) if layer in self.split else code)[..., None]
            error: Tensor = coder.spread(code) - coder.pool(feature)
            return error.abs().mean((1, 2))


def feature_autoencoder(
    network: nn.Module,
    name: str = "the network",
    *,
    layers: Pairs = "pair",
    latent: Latent = "scalar",
    shared: bool = True,
    size: int | None = None,
    grid: int = 16,
    hidden: int = 64,
) -> FeatureAutoEncoders:
    """Untrained auto-encoders for the layers of a network.

    Args:
        network: declares its features; only their channels are read, and whether it takes volumes.
        name: of the network, for messages.
        layers: see `parse_pairs`.
        latent: see `FeatureAutoEncoders`, as the next four.
        shared: one MLP for all layers of the network.
        size: of a latent vector.
        grid: positions per side.
        hidden: width of the hidden layers.

    Raises:
        InputError: the network does not declare these features.

    >>> from segdistill.models.registry import create_network
    >>> feature_autoencoder(create_network("unet", widths=[2, 4, 8, 8])).layers
    ('pair_encoder|enc@4', 'pair_decoder|dec@4')
    """
    pairs = parse_pairs(layers)
    infos = declared_layers(network, list(dict.fromkeys(chain.from_iterable(pairs))), name)
    if not infos:
        raise InputError(f"{name} declares no features (feature_info): auto-encoders need their channels")
    channels = {layer: info.channels for layer, info in infos.items()}
    dimensions = int(getattr(network, "dimensions", 2))
    return FeatureAutoEncoders(channels, latent, shared, size, grid, hidden, pairs, dimensions)


Distance = Literal["l2", "mse"]
EPSILON = 1e-12
"""Added inside every root, so that its slope at zero is bounded."""


def latent_similarity(encoder: Tensor, decoder: Tensor, outer: bool = True) -> Tensor:
    """Cosine between two latents, or between their products L^T L (LightVessel Eq. 2 and 3).

    The products have 512 x 512 entries and are never built: of two vectors their cosine is cos^2, and of stacks of
    vectors it is |E D^T|^2 / (|E E^T| |D D^T|) in Frobenius norms.

    Args:
        encoder: (B, n), or (B, C, n) with one vector per channel.
        decoder: (B, n), or (B, D, n).
        outer: compare the products, in [0, 1] (the text's L_tra); False compares the vectors (Eq. 2 as written), in
            [-1, 1]: only for one vector each.

    Returns:
        (B,).

    >>> latent_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]])).tolist()
    [1.0]
    >>> latent_similarity(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]), outer=False).tolist()
    [-1.0]
    """
    if encoder.ndim == 2:
        cosine = F.cosine_similarity(encoder.float(), decoder.float(), dim=1)
        return cosine * cosine if outer else cosine
    if not outer:
        raise InputError("latents per channel can only be compared by their outer products: set outer: true")
    with exact(encoder):
        first, second = (each.float() / _length(each.float()) for each in (encoder, decoder))
        cross, own, other = (
            (a @ b.mT).square().sum((1, 2)) for a, b in ((first, second), (first, first), (second, second))
        )
        similarity: Tensor = cross / (own * other + EPSILON).sqrt()
        return similarity


def _length(stack: Tensor) -> Tensor:
    """(B, 1, 1) norm, to keep fourth powers in range; it cancels out, so it needs no gradient."""
    length: Tensor = torch.linalg.vector_norm(stack.detach(), dim=(1, 2)).clamp(min=EPSILON)
    return length[:, None, None]


@register_method("feature_similarity")
class FeatureSimilarity(DistillationMethod):
    """Feature-wise similarity distillation (FSD; LightVessel, Dang et al. 2023, section 3.2).

    Encoder and decoder features become latents by auto-encoders, which are trained before, one MLP for each network:
    the student's on the same architecture without distillation. They are frozen and, like teachers, no submodules.
    Gradients pass through the student's into the student.

    Args:
        layers: "pair" (default, one pair at a quarter of the size, as in the group's code), strides such as [2, 4], or
            pairs such as [[enc2, dec2]]; the auto-encoders must have been trained for the same.
        outer: see `latent_similarity`.
        distance: between the similarities of all pairs: Euclidean (LightVessel Eq. 3), or "mse", the mean of squares.
        autoencoders: name of a network ("student" and each teacher) -> its trained auto-encoders.

    >>> codes = FeatureAutoEncoders({"e": 4, "d": 6}, pairs=[("e", "d")])
    >>> method = FeatureSimilarity(layers=[["e", "d"]], autoencoders={"student": codes})
    >>> features = {"e": torch.rand(2, 4, 8, 8), "d": torch.rand(2, 6, 8, 8)}
    >>> method.targets(Output(logits=None, features=features))["similarity"].shape
    torch.Size([2, 1])
    """

    loss_options = ("distance",)

    def __init__(
        self,
        layers: Pairs = "pair",
        outer: bool = True,
        distance: Distance = "l2",
        autoencoders: Mapping[str, FeatureAutoEncoders] | None = None,
    ) -> None:
        super().__init__()
        fit_option("feature_similarity: distance", distance, Distance)
        self.pairs, self.outer, self.distance = parse_pairs(layers), outer, distance
        self.features = tuple(dict.fromkeys(chain.from_iterable(self.pairs)))
        self.autoencoders = {
            name: codes.eval().requires_grad_(False) for name, codes in (autoencoders or {}).items()
        }
        for name, codes in self.autoencoders.items():
            lacking = [layer for layer in self.features if layer not in codes.layers]
            if lacking:
                raise InputError(
                    f"feature_similarity: the auto-encoders of '{name}' were trained for {', '.join(codes.layers)}, "
                    f"not {', '.join(lacking)}: set the same layers in both stages"
                )
            if codes.latent == "per_channel" and not outer:
                raise InputError(
                    "feature_similarity: outer: false needs auto-encoders with latent: scalar or vector"
                )
        latents: set[Latent] = {codes.latent for codes in self.autoencoders.values()}
        if len(latents) > 1:
            raise InputError("feature_similarity: all auto-encoders need the same latent")

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes nothing.

        Raises:
            InputError: a network has no auto-encoders, or those of another network; names it.
        """
        for name, layers in {STUDENT: student, **teachers}.items():
            codes = self._codes(name)
            for layer, info in layers.items():
                expected = codes.channels[layer] if layer in self.features else info.channels
                if info.channels != expected:
                    raise InputError(
                        f"feature_similarity: the auto-encoder of '{name}' takes {expected} channels at {layer}, but "
                        f"the network has {info.channels}: train it on this network"
                    )

    def _codes(self, name: str) -> FeatureAutoEncoders:
        if name not in self.autoencoders:
            has = ", ".join(self.autoencoders) or "none"
            raise InputError(
                f"feature_similarity has no auto-encoders for '{name}' (only for: {has}): add a stage with "
                f"task: autoencoder and set autoencoders: {{{name}: STAGE}}"
            )
        return self.autoencoders[name]

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """(B, pairs) similarities."""
        codes = self._codes(network)
        latents = {layer: codes.encode(layer, output.features[layer]) for layer in self.features}
        found = [latent_similarity(latents[e], latents[d], self.outer) for e, d in self.pairs]
        return {"similarity": torch.stack(found, 1)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) distance between the similarities."""
        difference = student["similarity"] - teacher["similarity"]
        if self.distance == "mse":
            return difference.square().mean(1)
        norm: Tensor = torch.linalg.vector_norm(difference, dim=1)
        return norm


Form = Literal["image", "pixel"]


@register_method("adversarial_similarity")
class AdversarialSimilarity(DistillationMethod):
    """Adversarial similarity distillation (LightVessel, Dang et al. 2023, Eq. 4 and 5); nothing in it is adversarial.

    The distance of Eq. 4 is printed as a sum over the n positions, about 30 for 256 x 256: far more than a
    cross-entropy of 0.05, and dependent on the image's size. Here it is divided by the root of n.

    The literal form, `form="image", one_sided=False`, is a second supervised loss: the teacher enters by one number,
    which a student below it never meets (on coronary its gradient has a cosine of 0.97 with that of cross-entropy). It
    stands beside `cross_entropy_rmse`, a loss without teacher, in the recipe lightvessel/coronary.

    Args:
        form: "pixel" is the root mean square of the difference of errors at each position, as in the text
            ("pixel-wise", "spatial"); "image" compares one root mean square error per image (Eq. 4 and 5 literally).
        one_sided: no loss where the student's error is smaller than its teacher's; Eq. 5 would make it worse.

    >>> method = AdversarialSimilarity()
    >>> mask = torch.ones(1, 4, 4, dtype=torch.long)
    >>> targets = method.targets(Output(logits=torch.zeros(1, 2, 4, 4), features={}), mask)
    >>> targets["error"][0, 0].tolist()
    [0.5, 0.5, 0.5, 0.5]
    """

    needs_mask = True
    loss_options = ("one_sided",)

    def __init__(self, form: Form = "pixel", one_sided: bool = True) -> None:
        super().__init__()
        fit_option("adversarial_similarity: form", form, Form)
        self.form: Form = form
        self.balances = form == "pixel"
        self.one_sided = one_sided

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """(B,) errors of images, or (B, ...) errors |p - g| of the foreground, all but class 0, at each position."""
        logits = logits_of(output, "adversarial_similarity")
        reference = (mask_of(mask, "adversarial_similarity") > 0).float()
        error = (probabilities(logits)[:, 1:].sum(1) - reference).abs()
        if self.form == "image":
            error = (error.square().flatten(1).mean(1) + EPSILON).sqrt()
            return {"error": error}
        return {"error": error} | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) distance between the errors."""
        difference = student["error"] - teacher["error"]
        difference = difference.relu() if self.one_sided else difference
        if self.form == "image":
            return difference.abs()
        return (mean_over_positions(difference.square(), teacher.get("region")) + EPSILON).sqrt()
