"""CIRKD against NumPy: relations within a batch, and to what a teacher said before."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from segdistill.distillation import DistillationMethod, create_method
from segdistill.distillation.base import module_key
from segdistill.distillation.methods.cirkd import (
    CIRKD,
    ChannelContrast,
    ChannelMemory,
    CrossImage,
    Memory,
    MemoryContrast,
)
from segdistill.errors import InputError
from segdistill.models.network import FeatureInfo, Output
from tests.distillation.contract import Array, MethodContract
from tests.distillation.numbers import Arrays, blocks, cosine, hold_against, kl, resized

SMALL = {"pixels": 40, "per_image": 4, "regions": 6, "drawn_pixels": 20, "drawn_regions": 8}


class TestCrossImage(MethodContract):
    name = "cross_image"
    options = {"grid": 4}  # noqa: RUF012

    def test_samples_are_independent(self) -> None:
        """They do: an image is compared with the others of its batch. Its loss does not depend on their order."""
        method = self.make()
        student, teacher = self.targets(method), self.targets(method, seed=1)
        turned = [{layer: x.flip(0) for layer, x in targets.items()} for targets in (student, teacher)]
        torch.testing.assert_close(method(*turned), method(student, teacher).flip(0))


def filled(network: str = "", **options: int) -> MemoryContrast:
    """Queues with something in them, which take in nothing more; a head that leaves directions as they are."""
    torch.manual_seed(0)
    method = MemoryContrast(**{"grid": 4, **SMALL, **options})
    info = {"decoder": FeatureInfo("decoder", 5, 2)}
    method.build(info, {network: info})
    fill(method.memories[module_key(network)])
    return method


def fill(memory: torch.nn.Module) -> None:
    assert isinstance(memory, Memory)
    torch.manual_seed(1)
    masks = torch.zeros(2, 2, 9)
    masks[:, 0, :5], masks[:, 1, 5:] = 1, 1
    memory.store(torch.nn.functional.normalize(torch.randn(2, 5, 9), dim=1), masks, 4)
    memory.head = torch.nn.Sequential()
    memory.eval()


class TestMemory(MethodContract):
    name = "memory_contrast"
    options = {"drawn_pixels": 40, "drawn_regions": 12}  # noqa: RUF012 - everything is drawn, in any order

    def make(self) -> DistillationMethod:
        return filled(**self.options)

    def test_what_is_extracted_is_small(self) -> None:
        targets = self.targets(self.make(), size=64)
        assert sum(value[0].numel() for value in targets.values()) <= 4 * 4 * (5 + 2)


CHANNELS = {"channels": 30, "drawn_channels": 40}


def with_channels(network: str = "", **options: float) -> ChannelContrast:
    """A queue with something in it, which takes in nothing more; a head that leaves channels as they are."""
    method = ChannelContrast(**{"grid": 4, **CHANNELS, **options})  # type: ignore[arg-type]
    info = {"decoder": FeatureInfo("decoder", 5, 2)}
    method.build(info, {network: info})
    fill_channels(method.memories[module_key(network)])
    return method


def fill_channels(memory: torch.nn.Module) -> None:
    assert isinstance(memory, ChannelMemory)
    torch.manual_seed(1)
    memory.store(torch.nn.functional.normalize(torch.randn(4, 5, 16), dim=2), 256)
    memory.head = torch.nn.Sequential()
    memory.eval()


class TestChannelContrast(TestCrossImage):
    name = "channel_contrast"
    options = {"grid": 4, **CHANNELS}  # noqa: RUF012

    def make(self) -> DistillationMethod:
        return with_channels(**self.options)


class TestCIRKD(TestCrossImage):
    name = "cirkd"
    options = {**SMALL, "grid": 4, "drawn_pixels": 40, "drawn_regions": 12}  # noqa: RUF012
    numbers = 3

    def make(self) -> DistillationMethod:
        method = create_method(self.name, **self.options)
        info = {"decoder": FeatureInfo("decoder", 5, 2)}
        method.build(info, {"": info})
        fill(method.methods["memory"].memories[module_key("")])
        if "channel" in method.methods:
            fill_channels(method.methods["channel"].memories[module_key("")])
        return method


class TestCIRKDv2(TestCIRKD):
    options = {**TestCIRKD.options, **CHANNELS, "batch_channel": 1.0, "memory_channel": 0.1}  # noqa: RUF012


def relation_maps(x: Array, temperature: float) -> Array:
    """(B, B, n, n) logits: position i of image a with position j of image b."""
    flat = x.reshape(*x.shape[:2], -1)
    n = flat.shape[2]
    found = np.zeros((len(x), len(x), n, n))
    for a, b, i, j in np.ndindex(found.shape):
        found[a, b, i, j] = cosine(flat[a, :, i], flat[b, :, j]) / temperature
    return found


@pytest.mark.parametrize("sizes", [((4, 2), (4, 2)), ((2, 2), (4, 4))])
def test_mini_batch_equals_numpy(sizes: tuple[tuple[int, int], tuple[int, int]]) -> None:
    rng = np.random.default_rng(0)
    own, other = ({"decoder": rng.normal(size=(3, c, *size))} for c, size in zip((3, 5), sizes, strict=True))
    theirs = relation_maps(other["decoder"], 0.1)

    def reference(arrays: Arrays) -> Array:
        maps = relation_maps(resized(arrays["decoder"], sizes[1]), 0.1)
        return kl(theirs, maps, 3).mean((1, 2))

    hold_against(CrossImage(), reference, own, other, step=1e-6)


def test_large_maps_are_averaged_down() -> None:
    rng = np.random.default_rng(0)
    pair = [rng.normal(size=(2, c, 12, 8)) for c in (3, 5)]
    method = CrossImage(grid=4)
    got = method(*(method.targets(Output(None, {"decoder": torch.tensor(x)})) for x in pair))
    maps = [relation_maps(blocks(x, 4, np.mean), 0.1) for x in pair]
    np.testing.assert_allclose(got.numpy(), kl(maps[1], maps[0], 3).mean((1, 2)), rtol=1e-4)


def test_memory_equals_numpy() -> None:
    """All that the queues hold is drawn: what is left is the formula, through the whole head in eval mode."""
    rng = np.random.default_rng(0)
    own, other = {"decoder": rng.normal(size=(2, 3, 4, 4))}, {"decoder": rng.normal(size=(2, 5, 4, 4))}
    method = MemoryContrast(drawn_pixels=400, drawn_regions=400, grid=4)
    method.build({"decoder": FeatureInfo("decoder", 3, 2)}, {"t": {"decoder": FeatureInfo("decoder", 5, 2)}})
    memory = method.memories["t/"]
    assert isinstance(memory, Memory)
    memory.store(torch.nn.functional.normalize(torch.randn(2, 5, 6), dim=1), torch.ones(2, 2, 6), 3)
    memory(torch.randn(4, 3, 7))  # the batch norm sees something
    memory.eval()
    mask = rng.integers(0, 2, (2, 8, 8))
    entries = {
        "pixel": memory.pixel[:, :6].reshape(-1, 5).double().numpy(),
        "region": memory.region[:, :2].reshape(-1, 5).double().numpy(),
    }
    first, norm, _, last = (
        (m, {k: v.detach().double().numpy() for k, v in m.state_dict().items()}) for m in memory.head
    )

    def head(x: Array) -> Array:
        x = np.einsum("oc,bcn->bon", first[1]["weight"][..., 0], x) + first[1]["bias"][:, None]
        p = {k: v[:, None] for k, v in norm[1].items() if v.ndim}
        x = (x - p["running_mean"]) / np.sqrt(p["running_var"] + 1e-5) * p["weight"] + p["bias"]
        return (
            np.einsum("oc,bcn->bon", last[1]["weight"][..., 0], np.maximum(x, 0)) + last[1]["bias"][:, None]
        )

    def directions(x: Array) -> Array:
        return x / np.sqrt((x * x).sum(1, keepdims=True))

    t = directions(other["decoder"].reshape(2, 5, -1))

    def reference(arrays: Arrays) -> Array:
        s = directions(head(arrays["decoder"].reshape(2, 3, -1)))
        losses = [
            kl(np.einsum("md,bdn->bmn", e, t) / 0.1, np.einsum("md,bdn->bmn", e, s) / 0.1, 1)
            for e in entries.values()
        ]
        return 0.1 * losses[0].mean(1) + 0.1 * losses[1].mean(1)

    hold_against(method, reference, own, other, mask, step=1e-6)


def store_one(memory: Memory, value: float, c: int = 0) -> None:
    masks = torch.zeros(1, 2, 1)
    masks[0, c] = 1
    memory.store(torch.full((1, 3, 1), value), masks, 4)


def test_queues_are_rings() -> None:
    memory = Memory(3, 3, classes=2, pixels=3, regions=2)
    assert memory.draw("pixel", 100).shape == (0, 3)
    for value in (1.0, 2.0, 3.0, 4.0):
        store_one(memory, value)
    assert sorted(memory.pixel[0, :, 0].tolist()) == [2.0, 3.0, 4.0]  # the first has made way
    assert memory.pixel_count.tolist() == [4, 0]
    torch.testing.assert_close(memory.region[0].norm(dim=1), torch.ones(2))
    store_one(memory, 9.0, c=1)
    assert memory.draw("pixel", 100).shape == (4, 3)
    assert memory.draw("pixel", 2).shape == (3, 3)  # 2 // 2 + 1 of each class, and one class has one


def test_more_at_once_than_a_ring_holds() -> None:
    memory = Memory(3, 3, classes=2, pixels=3, regions=2)
    memory.store(torch.rand(1, 3, 10), torch.ones(1, 2, 10), 8)
    assert (memory.pixel.norm(dim=2) > 0).all()
    assert memory.draw("pixel", 100).shape == (6, 3)


def test_what_is_stored_is_the_teachers_and_of_its_class() -> None:
    torch.manual_seed(0)
    memory = Memory(4, 3, classes=2, pixels=50, regions=9)
    directions = torch.nn.functional.normalize(torch.randn(1, 3, 20), dim=1)
    mask = (torch.arange(20) < 7).float()
    memory.store(directions, torch.stack([1 - mask, mask])[None], 4)
    inside = directions[0].T[mask > 0]
    assert memory.pixel_count.tolist() == [4, 4]
    for entry in memory.pixel[1, :4]:
        assert (inside - entry).abs().sum(1).min() == 0
    mean = inside.mean(0)
    torch.testing.assert_close(memory.region[1, 0], mean / mean.norm())


def test_an_empty_queue_and_an_empty_class_are_nothing() -> None:
    method = MemoryContrast(**SMALL)
    info = {"decoder": FeatureInfo("decoder", 3, 1)}
    method.build(info, {"t": info})
    memory = method.memories["t/"].eval()
    feature = torch.rand(2, 3, 4, 4, requires_grad=True)

    def loss() -> Tensor:
        target = torch.zeros(2, 4, 4, dtype=torch.long)  # no lesion anywhere
        targets = [
            method.targets(Output(None, {"decoder": x}), target) for x in (feature, torch.rand(2, 3, 4, 4))
        ]
        return method(*targets, "t")

    assert loss().tolist() == [0.0, 0.0]  # in eval mode nothing is stored
    memory.train()
    value = loss()
    value.sum().backward()
    assert (value > 0).all()
    assert feature.grad is not None
    assert torch.isfinite(feature.grad).all()
    assert memory.pixel_count.tolist() == [8, 0]  # type: ignore[operator, union-attr]


def test_state_is_all_there_is() -> None:
    """A memory with another's state, and the same random numbers, goes on as that one."""
    made = []
    for _ in range(2):
        method = MemoryContrast(**SMALL)
        info = {"decoder": FeatureInfo("decoder", 3, 1)}
        method.build(info, {"t": info})
        made.append(method)
    target = torch.randint(0, 2, (2, 4, 4))
    outputs = [Output(None, {"decoder": torch.rand(2, 3, 4, 4)}) for _ in range(2)]

    def step(method: MemoryContrast, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return method(*(method.targets(output, target) for output in outputs), "t").detach()

    step(made[0], 1)
    made[1].load_state_dict(made[0].state_dict())
    assert torch.equal(step(made[0], 2), step(made[1], 2))


def test_cirkd_is_the_sum_of_its_terms() -> None:
    assert CIRKD().weights == {
        "prediction": 1.0,
        "batch": 1.0,
        "memory": 1.0,
    }
    method = CIRKD(memory_pixel=0.0, memory_region=0.0)
    rng = np.random.default_rng(0)
    own, other = (
        {"logits": rng.normal(size=(2, 3, 4, 4)), "decoder": rng.normal(size=(2, c, 2, 2))} for c in (3, 5)
    )
    theirs = relation_maps(other["decoder"], 0.1)

    def reference(arrays: Arrays) -> Array:
        batch = kl(theirs, relation_maps(arrays["decoder"], 0.1), 3).mean((1, 2))
        return kl(other["logits"], arrays["logits"], 1).mean((1, 2)) + batch

    hold_against(method, reference, own, other, step=1e-6)


def test_volumes_are_images_with_one_more_axis() -> None:
    pair = [torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4)]
    thick = [x[:, :, None].expand(-1, -1, 2, -1, -1) for x in pair]
    torch.testing.assert_close(CrossImage().layer_loss(*thick), CrossImage().layer_loss(*pair))
    method, target = filled(drawn_pixels=40, drawn_regions=12), torch.randint(0, 2, (2, 4, 4))
    pair[0] = torch.rand(2, 5, 4, 4)
    thick[0] = pair[0][:, :, None].expand(-1, -1, 2, -1, -1)

    def loss(xs: list[Tensor], y: Tensor) -> Tensor:
        return method(*(method.targets(Output(None, {"decoder": x}), y) for x in xs))

    torch.testing.assert_close(loss(thick, target[:, None].expand(-1, 2, -1, -1)), loss(pair, target))


def test_bad_use_is_explained() -> None:
    with pytest.raises(InputError, match="cross_image: temperature must be positive"):
        create_method("cross_image", temperature=0.0)
    with pytest.raises(InputError, match="memory_contrast needs one layer"):
        create_method("memory_contrast", layers=["encoder", "decoder"])
    with pytest.raises(InputError, match="memory_contrast needs networks that declare their features"):
        create_method("cirkd").build({}, {"t": {}})


def test_channels_equal_numpy() -> None:
    """Both terms, the whole queue drawn, on pictures that are averaged and on volumes that are filled up with 0."""
    rng = np.random.default_rng(0)
    method = with_channels("t", batch=0.7, memory=0.3)
    memory = method.memories[module_key("t")]
    assert isinstance(memory, ChannelMemory)
    entries = memory.ring[:20].double().numpy()
    own, other = ({"decoder": rng.normal(size=(3, 5, 8, 8))} for _ in range(2))

    def directions(x: Array) -> Array:
        flat = blocks(x, 4, np.mean).reshape(len(x), 5, 16)
        return flat / np.sqrt(np.square(flat).sum(2, keepdims=True))

    def reference(arrays: Arrays) -> Array:
        s, t = directions(arrays["decoder"]), directions(other["decoder"])
        pairs = [np.einsum("icn,jdn->ijcd", each, each) / 0.1 for each in (t, s)]
        stored = [each @ entries.T / 0.1 for each in (t, s)]
        return 0.7 * kl(*pairs, 3).mean((1, 2)) + 0.3 * kl(*stored, 2).mean(1)

    hold_against(method, reference, own, other, network="t")


def test_the_queue_of_channels_is_a_ring() -> None:
    memory = ChannelMemory(2, 3, length=4, positions=6)
    first, second = torch.rand(1, 3, 5), torch.rand(1, 3, 5)
    memory.store(first, 256)
    assert memory.draw(9, 5).shape == (3, 5)
    memory.store(second, 256)
    assert int(memory.count) == 6
    assert (memory.ring[:, 5] == 0).all()
    kept = {tuple(row) for row in memory.ring[:, :5].tolist()}
    assert {tuple(row) for row in second[0].tolist()} <= kept
    memory.store(torch.rand(1, 3, 5), 2)
    assert int(memory.count) == 8


def test_refused_channels() -> None:
    with pytest.raises(InputError, match="channel_contrast needs one layer"):
        ChannelContrast(layers=["encoder", "decoder"])
    with pytest.raises(InputError, match="must not be negative"):
        ChannelContrast(batch=-1.0)
    with pytest.raises(InputError, match="declare their features"):
        ChannelContrast().build({}, {"t": {}})
