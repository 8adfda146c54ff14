"""LightVessel's FSD: how alike what a network's encoder saw is to what its decoder makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.autoencoder import FeatureAutoEncoders, Latent, Pairs, parse_pairs
from segdistill.knowledge.base import STUDENT, Knowledge, Said, Taps
from segdistill.models.output import Output
from segdistill.options import fit_option

Distance = Literal["l2", "mse"]
EPSILON = 1e-12


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
    with torch.autocast(encoder.device.type, enabled=False):
        first, second = (each.float() / _length(each.float()) for each in (encoder, decoder))
        cross, own, other = (
            (a @ b.mT).square().sum((1, 2)) for a, b in ((first, second), (first, first), (second, second))
        )
        similarity: Tensor = cross / (own * other + EPSILON).sqrt()
        return similarity


def _length(stack: Tensor) -> Tensor:
    """(B, 1, 1) norm that keeps fourth powers in range; it cancels, so it needs no gradient."""
    length: Tensor = torch.linalg.vector_norm(stack.detach(), dim=(1, 2)).clamp(min=EPSILON)
    return length[:, None, None]


def feature_similarity_gap(student: Tensor, teacher: Tensor, distance: Distance = "l2") -> Tensor:
    """Distance between similarities (B, pairs): Euclidean over pairs (LightVessel Eq. 3), or mean of squares.

    >>> feature_similarity_gap(torch.tensor([[0.25]]), torch.tensor([[0.5]])).tolist()
    [0.25]
    """
    difference = student - teacher
    if distance == "mse":
        return difference.square().mean(1)
    norm: Tensor = torch.linalg.vector_norm(difference, dim=1)
    return norm


class FeatureSimilarity(Knowledge):
    """Feature-wise similarity distillation (FSD; LightVessel, Dang et al. 2023, section 3.2).

    Encoder and decoder features become latents by auto-encoders that were trained before, of each network its own: a
    student's were trained on the same architecture without distillation. They are frozen; gradients pass through the
    student's into the student.

    Args:
        taps: "pair" (default, one pair at a quarter of the size, as in the group's code), strides such as [2, 4], or
            pairs such as [[enc2, dec2]]; the auto-encoders must have been trained for the same.
        outer: see `latent_similarity`.
        distance: see `feature_similarity_gap`.
        autoencoders: name of a network -> its trained auto-encoders; "student" and each teacher.

    >>> codes = FeatureAutoEncoders({"e": 4, "d": 6}, size=8)
    >>> knowledge = FeatureSimilarity(taps=[["e", "d"]], autoencoders={"student": codes})
    >>> features = {"e": torch.rand(2, 4, 8, 8), "d": torch.rand(2, 6, 8, 8)}
    >>> knowledge.extract(Output(logits=None, features=features))["similarity"].shape
    torch.Size([2, 1])
    """

    compares = ("distance",)

    def __init__(
        self,
        taps: Pairs = "pair",
        outer: bool = True,
        distance: Distance = "l2",
        autoencoders: Mapping[str, FeatureAutoEncoders] | None = None,
    ) -> None:
        fit_option("feature_similarity: distance", distance, Distance)
        self.pairs, self.outer, self.distance = parse_pairs(taps), outer, distance
        self.features = tuple(dict.fromkeys(chain.from_iterable(self.pairs)))
        self.autoencoders = {
            name: codes.eval().requires_grad_(False) for name, codes in (autoencoders or {}).items()
        }
        for name, codes in self.autoencoders.items():
            lacking = [tap for tap in self.features if tap not in codes.taps]
            if lacking:
                raise InputError(
                    f"feature_similarity: the auto-encoders of '{name}' know {', '.join(codes.taps)}, "
                    f"not {', '.join(lacking)}: give both stages the same taps"
                )
            if codes.latent == "per_channel" and not outer:
                raise InputError("feature_similarity: outer: false needs auto-encoders with latent: vector")
        latents: set[Latent] = {codes.latent for codes in self.autoencoders.values()}
        if len(latents) > 1:
            raise InputError("feature_similarity: all auto-encoders need the same latent")

    def connect(self, student: Taps, teachers: Mapping[str, Taps]) -> None:
        """Refuses a network without auto-encoders, or with those of another network.

        Raises:
            InputError: names it.
        """
        for name, taps in {STUDENT: student, **teachers}.items():
            codes = self._codes(name)
            for tap, info in taps.items():
                expected = codes.encoder(tap).channels
                if tap in self.features and info.channels != expected:
                    raise InputError(
                        f"feature_similarity: the auto-encoder of '{name}' takes {expected} channels at {tap}, the "
                        f"network has {info.channels}: train it on this network"
                    )

    def _codes(self, name: str) -> FeatureAutoEncoders:
        if name not in self.autoencoders:
            has = ", ".join(self.autoencoders) or "none"
            raise InputError(
                f"feature_similarity has no auto-encoders for '{name}' (only for: {has}): train some in a stage "
                f"with task: autoencoder and name it under autoencoders: {{{name}: STAGE}}"
            )
        return self.autoencoders[name]

    def extract(self, output: Output, target: Tensor | None = None, network: str = STUDENT) -> Said:
        """(B, pairs) similarities."""
        codes = self._codes(network)
        latents = {tap: codes.encoder(tap).encode(output.features[tap]) for tap in self.features}
        found = [latent_similarity(latents[e], latents[d], self.outer) for e, d in self.pairs]
        return {"similarity": torch.stack(found, 1)}

    def gap(self, student: Said, teacher: Said, network: str = "") -> Tensor:
        """(B,) distance between the similarities."""
        return feature_similarity_gap(student["similarity"], teacher["similarity"], self.distance)
