"""FSD against NumPy, where the 512 x 512 products are really built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf

from segdistill.data.datasets import create_dataset
from segdistill.data.opened import open_case
from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.methods.lightvessel import (
    PAIR,
    FeatureAutoEncoders,
    FeatureSimilarity,
    feature_autoencoder,
    latent_similarity,
)
from segdistill.distillation.teacher import Teacher
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from segdistill.models.registry import create_network
from tests.distillation.contract import Array, MethodContract, slope_of


def codes(layers: tuple[str, ...], channels: int = 5, **options: object) -> FeatureAutoEncoders:
    torch.manual_seed(0)
    if options.get("latent", "scalar") != "scalar":
        options = {"size": 24, **options}
    return FeatureAutoEncoders(dict.fromkeys(layers, channels), **options)  # type: ignore[arg-type]


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


def latent(encoders: FeatureAutoEncoders, name: str, feature: Array) -> Array:
    """Pooled by blocks: sides of the feature are multiples of the grid."""
    coder = encoders.coder(name)
    b, c, h, w = feature.shape
    g = coder.grid
    pooled = feature.reshape(b, c, g, h // g, g, w // g).mean((3, 5)).reshape(b, c, g * g)
    code = layer(coder.squeeze[2], gelu(layer(coder.squeeze[0], pooled)))
    if encoders.latent == "per_channel":
        return code
    return layer(encoders.join[name], code[..., 0]) if name in encoders.join else code[..., 0]


@pytest.mark.parametrize("outer", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["scalar", "vector", "per_channel"])
def test_equals_numpy_with_gradient(kind: str, shared: bool, outer: bool) -> None:
    if kind == "per_channel" and not outer:
        return
    layers = ("e", "d")
    options = {"latent": kind, "shared": shared, "grid": 4}
    mine, theirs = codes(layers, **options), codes(layers, channels=3, **options)
    method = FeatureSimilarity([layers], outer, "l2", {"student": mine, "t": theirs})
    rng = np.random.default_rng(0)
    own = {layer: rng.normal(size=(2, 5, 8, 8)) for layer in layers}
    other = {layer: rng.normal(size=(2, 3, 4, 12)) for layer in layers}

    def similarity(encoders: FeatureAutoEncoders, features: dict[str, Array]) -> Array:
        e, d = (latent(encoders, layer, features[layer]) for layer in layers)
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


@pytest.mark.parametrize("kind", ["scalar", "vector", "per_channel"])
def test_reconstruction_is_learned(kind: str) -> None:
    """Six channels of one pattern each: an auto-encoder does better than their mean."""
    torch.manual_seed(0)
    options = {} if kind == "scalar" else {"size": 16}
    encoders = FeatureAutoEncoders({"e": 6, "d": 4}, kind, grid=4, hidden=16, pairs=[("e", "d")], **options)  # type: ignore[arg-type]
    pattern = torch.linspace(0, 2, 16).reshape(1, 1, 4, 4)
    features = {"e": torch.rand(8, 6, 1, 1) * pattern, "d": torch.rand(8, 4, 1, 1) * pattern}
    optimizer = torch.optim.Adam(encoders.parameters(), 1e-2)

    def error() -> torch.Tensor:
        return torch.stack(list(encoders(features).values())).mean()

    before = error().item()
    for _ in range(200):
        optimizer.zero_grad()
        error().backward()
        optimizer.step()
    assert error().item() < before / 4


def test_a_feature_is_like_itself_only_where_one_mlp_encodes_both() -> None:
    feature = torch.rand(6, 24, 16, 16)

    def with_itself(shared: bool) -> torch.Tensor:
        encoders = codes(("e", "d"), 24, shared=shared)
        method = FeatureSimilarity([("e", "d")], autoencoders={"student": encoders})
        return method.targets(Output(None, {"e": feature, "d": feature}))["similarity"]

    np.testing.assert_allclose(with_itself(True).numpy(), 1.0, rtol=1e-5)
    assert (with_itself(False) < 0.9).all()


def test_layers_of_other_widths_are_mapped_to_one() -> None:
    encoders = FeatureAutoEncoders({"e": 8, "d": 5}, pairs=[("e", "d")])
    assert list(encoders.join) == ["d"]
    assert encoders.encode("d", torch.rand(2, 5, 16, 16)).shape == (2, 8)


class CodesContract(MethodContract):
    name = "feature_similarity"

    def make_for(self, classes: int, dimensions: int) -> DistillationMethod:
        self.options = {**self.options, "dimensions": dimensions}  # type: ignore[misc]
        return self.make()


class TestScalar(CodesContract):
    def make(self) -> DistillationMethod:
        return FeatureSimilarity(autoencoders=dict.fromkeys(("student", "t"), codes(PAIR, **self.options)))


class TestVector(TestScalar):
    options = {"latent": "vector", "shared": False}  # noqa: RUF012


class TestPerChannel(TestScalar):
    options = {"latent": "per_channel"}  # noqa: RUF012


class TestTwoPairs(CodesContract):
    def make(self) -> DistillationMethod:
        layers = ("enc@2", "dec@2", "enc@4", "dec@4")
        return FeatureSimilarity(
            [2, 4], False, "mse", dict.fromkeys(("student", "t"), codes(layers, **self.options))
        )


def test_layers_of_real_networks() -> None:
    """The published pair where a network names one, else a quarter of the size by stride."""
    named = feature_autoencoder(create_network("enet"))
    assert [named.channels[layer] for layer in PAIR] == [64, 64]
    unet = feature_autoencoder(create_network("unet", widths=[2, 4, 6, 8]))
    assert [unet.channels[layer] for layer in PAIR] == [6, 6]
    assert feature_autoencoder(create_network("unet", widths=[2, 4, 6, 8], dimensions=3)).dimensions == 3
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
    with pytest.raises(InputError, match="needs auto-encoders with latent: scalar or vector"):
        FeatureSimilarity(outer=False, autoencoders={"student": codes(PAIR, latent="per_channel")})
    with pytest.raises(InputError, match="all auto-encoders need the same latent"):
        FeatureSimilarity(autoencoders={"student": codes(PAIR), "t": codes(PAIR, latent="per_channel")})
    with pytest.raises(InputError, match="size belongs to latent: vector or per_channel"):
        FeatureAutoEncoders({"e": 2}, size=8)
    fits = FeatureSimilarity(autoencoders={"student": codes(PAIR)})
    with pytest.raises(InputError, match=r"takes 5 channels at pair_encoder\|enc@4, but the network has 6"):
        fits.build({PAIR[0]: FeatureInfo("enc3", 6, 4)}, {})


@pytest.mark.slow
def test_the_similarity_tells_images_and_networks_apart(data_root: Path) -> None:
    """On patches of coronary: MLPs of two seeds agree about a trained network, and not with an untrained one."""
    images, masks = coronary_patches(data_root)
    torch.manual_seed(0)
    trained = create_network("unet", widths=[8, 16, 24, 32], in_channels=1)
    optimizer = torch.optim.Adam(trained.parameters(), 2e-3)
    for _ in range(300):
        chosen = torch.randint(len(images), (8,))
        loss = torch.nn.functional.cross_entropy(trained(images[chosen]).logits, masks[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(1)
    untrained = create_network("unet", widths=[8, 16, 24, 32], in_channels=1)

    first, second, other = (
        similarities(network, images, seed) for network, seed in ((trained, 0), (trained, 1), (untrained, 0))
    )
    assert np.corrcoef(first, second)[0, 1] >= 0.8
    assert first.std() >= 0.05
    assert abs(first.mean() - other.mean()) >= 0.05 or np.corrcoef(first, other)[0, 1] < 0.5


def coronary_patches(data_root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Nine patches of 96 x 96 pixels of each of the forty angiograms, (n, 1, 96, 96) and (n, 96, 96)."""
    images, masks = [], []
    for case in create_dataset("coronary", data_root / "coronary"):
        opened = open_case(case)
        pixels = torch.from_numpy(opened.pixels(0)[:288, :288].copy()).float()
        grey = pixels if pixels.ndim == 2 else pixels.mean(2)
        mask = torch.from_numpy(opened.reference[0, :288, :288].copy()).long()
        images.append(((grey - grey.mean()) / grey.std()).unfold(0, 96, 96).unfold(1, 96, 96))
        masks.append(mask.unfold(0, 96, 96).unfold(1, 96, 96))
    return torch.stack(images).reshape(-1, 1, 96, 96), torch.stack(masks).reshape(-1, 96, 96)


def similarities(network: torch.nn.Module, images: torch.Tensor, seed: int) -> Array:
    """(n,) similarities of a frozen network, after its MLP was trained."""
    torch.manual_seed(seed)
    encoders = feature_autoencoder(network)
    with torch.no_grad():
        features = Teacher("net", network)(images, encoders.layers).features
    optimizer = torch.optim.Adam(encoders.parameters(), 1e-3)
    for _ in range(600):
        chosen = torch.randint(len(images), (16,))
        errors = encoders({layer: features[layer][chosen] for layer in encoders.layers})
        optimizer.zero_grad()
        torch.stack(list(errors.values())).sum(0).mean().backward()
        optimizer.step()
    method = FeatureSimilarity(autoencoders={"student": encoders})
    with torch.no_grad():
        found: Array = method.targets(Output(None, features))["similarity"][:, 0].numpy()
    return found
