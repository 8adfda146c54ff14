"""FSD against NumPy, where the 512 x 512 products are really built."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import erf

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.lightvessel import (
    PAIR,
    AutoEncoder,
    FeatureAutoEncoders,
    FeatureSimilarity,
    feature_autoencoder,
    latent_similarity,
)
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from segdistill.models.registry import create_network
from tests.distillation.contract import Array, MethodContract, slope_of


def codes(layers: tuple[str, ...], channels: int = 5, **options: object) -> FeatureAutoEncoders:
    torch.manual_seed(0)
    return FeatureAutoEncoders(dict.fromkeys(layers, channels), **{"size": 24, **options})  # type: ignore[arg-type]


def cosine(a: Array, b: Array) -> Array:
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def products(latents: Array) -> Array:
    """(B, C, n) or (B, n) to the flattened L^T L."""
    stack = latents if latents.ndim == 3 else latents[:, None]
    return np.einsum("bci,bcj->bij", stack, stack).reshape(len(stack), -1)


@pytest.mark.parametrize("channels", [None, (3, 5)])
def test_similarity_of_products_without_building_them(channels: tuple[int, int] | None) -> None:
    rng = np.random.default_rng(0)
    shapes = [(4, 16)] * 2 if channels is None else [(4, c, 16) for c in channels]
    e, d = (rng.normal(size=shape) for shape in shapes)
    got = latent_similarity(torch.tensor(e), torch.tensor(d))
    np.testing.assert_allclose(got.numpy(), cosine(products(e), products(d)), rtol=1e-4, atol=1e-6)
    if channels is None:
        plain = latent_similarity(torch.tensor(e), torch.tensor(d), outer=False)
        np.testing.assert_allclose(plain.numpy(), cosine(e, d), rtol=1e-4)


@pytest.mark.parametrize("distance", ["l2", "mse"])
def test_loss_over_pairs(distance: str) -> None:
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    expected = np.sqrt(((s - t) ** 2).sum(1)) if distance == "l2" else ((s - t) ** 2).mean(1)
    own, other = ({"similarity": torch.tensor(each)} for each in (s, t))
    got = FeatureSimilarity(distance=distance)(own, other)  # type: ignore[arg-type]
    np.testing.assert_allclose(got.numpy(), expected)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def layer(module: torch.nn.Module, x: Array) -> Array:
    weight, bias = (p.detach().double().numpy() for p in module.parameters())
    return x @ weight.T + bias


def latent(encoder: AutoEncoder, feature: Array) -> Array:
    """Pooled by blocks: sides of the feature are multiples of the grid."""
    b, c, h, w = feature.shape
    g = encoder.grid
    pooled = feature.reshape(b, c, g, h // g, g, w // g).mean((3, 5)).reshape(b, c, g * g)
    code = layer(encoder.squeeze[2], gelu(layer(encoder.squeeze[0], pooled)))  # type: ignore[index]
    return layer(encoder.join, code[..., 0]) if encoder.latent == "vector" else code


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("kind", ["vector", "per_channel"])
def test_equals_numpy_with_gradient(kind: str, outer: bool) -> None:
    if kind == "per_channel" and not outer:
        return
    layers = ("e", "d")
    mine, theirs = codes(layers, latent=kind, grid=4), codes(layers, channels=3, latent=kind, grid=4)
    method = FeatureSimilarity([layers], outer, "l2", {"student": mine, "t": theirs})
    rng = np.random.default_rng(0)
    own = {layer: rng.normal(size=(2, 5, 8, 8)) for layer in layers}
    other = {layer: rng.normal(size=(2, 3, 4, 12)) for layer in layers}

    def similarity(encoders: FeatureAutoEncoders, features: dict[str, Array]) -> Array:
        e, d = (latent(encoders.encoder(layer), features[layer]) for layer in layers)
        return cosine(products(e), products(d)) if outer else cosine(e, d)

    def reference(x: Array) -> Array:
        return np.abs(similarity(mine, own | {"d": x}) - similarity(theirs, other))

    leaf = torch.tensor(own["d"], requires_grad=True)
    targets = method.targets(Output(None, {"e": torch.tensor(own["e"]), "d": leaf}))
    loss = method(
        targets, method.targets(Output(None, {n: torch.tensor(f) for n, f in other.items()}), None, "t")
    )
    np.testing.assert_allclose(loss.detach().numpy(), reference(own["d"]), rtol=1e-3, atol=1e-5)
    loss.sum().backward()
    assert leaf.grad is not None
    places = [(0, 0, 0, 0), (1, 4, 7, 3), (1, 2, 2, 6)]
    expected = [slope_of(reference, own["d"], place, 1e-4) for place in places]
    np.testing.assert_allclose([leaf.grad[p].item() for p in places], expected, rtol=5e-3, atol=1e-7)
    assert all(p.grad is None for p in mine.parameters())


def test_reconstruction_is_learned() -> None:
    """Twenty channels of one pattern each: an auto-encoder does better than their mean."""
    torch.manual_seed(0)
    for kind in ("vector", "per_channel"):
        encoder = AutoEncoder(6, kind, size=16, grid=4, hidden=16)  # type: ignore[arg-type]
        feature = torch.rand(8, 6, 1, 1) * torch.linspace(0, 2, 16).reshape(1, 1, 4, 4)
        optimizer = torch.optim.Adam(encoder.parameters(), 1e-2)
        before = encoder(feature).mean().item()
        for _ in range(150):
            optimizer.zero_grad()
            encoder(feature).mean().backward()
            optimizer.step()
        assert encoder(feature).mean().item() < before / 4


class TestVector(MethodContract):
    name = "feature_similarity"

    def make(self) -> DistillationMethod:
        return FeatureSimilarity(autoencoders=dict.fromkeys(("student", "t"), codes(PAIR, **self.options)))


class TestPerChannel(TestVector):
    options = {"latent": "per_channel"}  # noqa: RUF012


class TestTwoPairs(MethodContract):
    name = "feature_similarity"

    def make(self) -> DistillationMethod:
        layers = ("enc@2", "dec@2", "enc@4", "dec@4")
        return FeatureSimilarity([2, 4], False, "mse", dict.fromkeys(("student", "t"), codes(layers)))


def test_layers_of_real_networks() -> None:
    """The published pair where a network names one, else a quarter of the size by stride."""
    named = feature_autoencoder(create_network("enet"), size=8)
    assert [named.encoder(layer).channels for layer in PAIR] == [64, 64]
    unet = feature_autoencoder(create_network("unet", widths=[2, 4, 6, 8]), size=8)
    assert [unet.encoder(layer).channels for layer in PAIR] == [6, 6]
    with pytest.raises(InputError, match=r"teacher has no feature 'pair_encoder\|enc@4': it has enc1"):
        feature_autoencoder(create_network("unet", widths=[2, 4]), "teacher")
    with pytest.raises(InputError, match="declares no features"):
        feature_autoencoder(torch.nn.Identity())


def test_bad_use_is_explained() -> None:
    with pytest.raises(
        InputError, match=r"no auto-encoders for 'student' \(only for: none\).*task: autoencoder"
    ):
        create_method("feature_similarity").build({}, {})
    with pytest.raises(InputError, match="distance is 'l1': choose from l2, mse"):
        create_method("feature_similarity", distance="l1")
    with pytest.raises(InputError, match="were trained for enc@2, dec@2, not pair_encoder"):
        FeatureSimilarity(autoencoders={"student": codes(("enc@2", "dec@2"))})
    with pytest.raises(InputError, match="needs auto-encoders with latent: vector"):
        FeatureSimilarity(outer=False, autoencoders={"student": codes(PAIR, latent="per_channel")})
    with pytest.raises(InputError, match="all auto-encoders need the same latent"):
        FeatureSimilarity(autoencoders={"student": codes(PAIR), "t": codes(PAIR, latent="per_channel")})
    fits = FeatureSimilarity(autoencoders={"student": codes(PAIR)})
    with pytest.raises(InputError, match=r"takes 5 channels at pair_encoder\|enc@4, but the network has 6"):
        fits.build({PAIR[0]: FeatureInfo("enc3", 6, 4)}, {})
