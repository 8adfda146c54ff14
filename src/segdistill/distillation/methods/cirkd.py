"""CIRKD: similarities of positions, or of channels, across the images of the batch, and to those of earlier batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segdistill.distillation.base import (
    STUDENT,
    Composed,
    DistillationMethod,
    LayerMethod,
    Layers,
    Targets,
    module_key,
    register_method,
)
from segdistill.distillation.layers import parse_layers
from segdistill.distillation.maps import (
    class_masks,
    exact,
    mask_of,
    mean_over_positions,
    pool,
    require_classes,
    resize,
    unit,
)
from segdistill.distillation.methods.soft_prediction import SoftPrediction
from segdistill.errors import InputError
from segdistill.models.network import Output


@register_method("cross_image")
class CrossImage(LayerMethod):
    """Mini-batch pixel-to-pixel method (CIRKD, Yang et al. 2022).

    For images i and j the similarities of the n positions of i to those of j are cosines; each row becomes a
    distribution by softmax at the temperature. The divergence is averaged over rows and over j. Widths need not match.
    In a batch of one, the image is compared with itself only.

    Args:
        layers: see layers.py; the original takes the last map before the head.
        temperature: of the softmax over similarities; the official code passes 0.1.
        grid: maps are averaged down to at most grid x grid positions, since there are (B grid^2)^2 similarities. The
            original pools maps of 256 positions and more by 4; its maps are an eighth of the image, those of a U-Net
            as large as it.

    >>> method = CrossImage()
    >>> targets = method.targets(Output(None, {"decoder": torch.rand(2, 8, 64, 64)}))
    >>> targets["decoder"].shape
    torch.Size([2, 8, 16, 16])
    """

    balances = True
    loss_options = ("temperature",)

    def __init__(
        self, layers: str | Sequence[str] = ("decoder",), temperature: float = 0.1, grid: int = 16
    ) -> None:
        super().__init__()
        if temperature <= 0 or grid < 1:
            raise InputError("cross_image: temperature must be positive, grid at least 1")
        self.features = parse_layers("cross_image", layers)
        self.temperature, self.grid = temperature, grid

    def target(self, feature: Tensor, mask: Tensor | None) -> Tensor:
        """The feature (B, C, ...), averaged down."""
        return pool(feature.float(), self.grid)

    def layer_loss(self, student: Tensor, teacher: Tensor, region: Tensor | None = None) -> Tensor:
        """(B,) KL(teacher || student), at the size of the teacher's feature; the samples depend on one another."""
        own, theirs = (self._similarities(each) for each in (resize(student, teacher.shape[2:]), teacher))
        of_rows = (theirs.exp() * (theirs - own)).sum(3).mean(2)
        return mean_over_positions(of_rows.reshape(len(teacher), *teacher.shape[2:]), region)

    def _similarities(self, feature: Tensor) -> Tensor:
        """(B, n, B, n) log-distributions over the last axis."""
        with exact(feature):
            directions = unit(feature.flatten(2)).mT
            cosine = torch.einsum("inc,jmc->injm", directions, directions)
            return torch.log_softmax(cosine / self.temperature, dim=3)


class Memory(nn.Module):
    """CIRKD's queues of one teacher, a ring buffer per class, and the student's projection head.

    All of it is state, so that a resumed training continues with the same entries. A ring begins empty (in the
    official code with random vectors), and only stored entries are drawn. With several devices all use the queues of
    the first one.

    Args:
        student: channels of the student's feature.
        teacher: channels D of the teacher's.
        classes: K.
        pixels: length of a class's ring of positions.
        regions: length of its ring of region means.

    >>> memory = Memory(4, 3, classes=2, pixels=5, regions=2)
    >>> memory.store(torch.rand(1, 3, 6), torch.zeros(1, 2, 6).index_fill(1, torch.tensor([1]), 1.0), 4)
    >>> memory.draw("pixel", 9).shape, memory.draw("region", 9).shape
    (torch.Size([4, 3]), torch.Size([1, 3]))
    """

    pixel: Tensor
    region: Tensor
    pixel_count: Tensor
    region_count: Tensor

    def __init__(self, student: int, teacher: int, classes: int, pixels: int, regions: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv1d(student, teacher, 1),
            nn.BatchNorm1d(teacher),
            nn.ReLU(),
            nn.Conv1d(teacher, teacher, 1),
        )
        for kind, length in (("pixel", pixels), ("region", regions)):
            self.register_buffer(kind, torch.zeros(classes, length, teacher))
            # how many were stored in all: the next place is the remainder by the ring's length
            self.register_buffer(f"{kind}_count", torch.zeros(classes, dtype=torch.int64))

    def forward(self, feature: Tensor) -> Tensor:
        """The student's (B, C, n) as directions (B, D, n) in the teacher's space."""
        with exact(feature):
            return unit(self.head(feature))

    @torch.no_grad()
    def store(self, directions: Tensor, masks: Tensor, per_image: int) -> None:
        """Stores, of each class in each image, the mean direction and some positions at random.

        Args:
            directions: (B, D, n) of the teacher.
            masks: (B, K, n), 1 where a position is of the class; nothing is stored of a class that the image lacks.
            per_image: positions of each class and image.
        """
        for image, of_classes in zip(directions, masks, strict=True):
            for c, mask in enumerate(of_classes):
                found = image[:, mask > 0].T
                if not len(found):
                    continue
                self._put("region", c, unit(found.mean(0, keepdim=True)))
                # on the CPU: the state of its generator is in every checkpoint
                chosen = torch.randperm(len(found))[:per_image]
                self._put("pixel", c, found[chosen.to(found.device)])

    def _put(self, kind: str, c: int, entries: Tensor) -> None:
        ring, count = getattr(self, kind)[c], getattr(self, f"{kind}_count")
        entries = entries[-len(ring) :]
        places = (int(count[c]) + torch.arange(len(entries), device=ring.device)) % len(ring)
        ring[places] = entries.to(ring.dtype)
        count[c] += len(entries)

    @torch.no_grad()
    def draw(self, kind: str, wanted: int) -> Tensor:
        """(entries, D) at random: of each class all that are stored, but at most `wanted` // K + 1."""
        rings, counts = getattr(self, kind), getattr(self, f"{kind}_count").tolist()
        drawn = []
        for ring, count in zip(rings, counts, strict=True):
            chosen = torch.randperm(min(count, len(ring)))[: wanted // len(rings) + 1]
            drawn.append(ring[chosen.to(ring.device)])
        return torch.cat(drawn)


@register_method("memory_contrast")
class MemoryContrast(DistillationMethod):
    """Memory pixel-to-pixel and pixel-to-region method (CIRKD, Yang et al. 2022).

    Each teacher has queues of its own (`Memory`), which store its features while the student trains, before the loss
    is computed. The student's features pass a learned head: 1x1, batch norm, ReLU, 1x1 to the teacher's width.

    Args:
        layers: one feature, see layers.py; the original takes the last map before the head.
        pixel: weight of the pixel-to-pixel term.
        region: weight of the pixel-to-region term.
        classes: K of the references; with one logit or two classes all but the background is one class.
        temperature: of the softmax over similarities.
        pixels, per_image: length of a class's queue of positions, and how many enter per class and image.
        regions: length of a class's queue of region means.
        drawn_pixels, drawn_regions: entries that a batch is compared with, of all classes together.
        grid: maps are averaged down to at most grid x grid positions.

    Raises:
        InputError: a number below 1, or a network that does not declare its features (in `build`).

    >>> from segdistill.models.network import FeatureInfo
    >>> info = {"decoder": FeatureInfo("decoder", 4, 1)}
    >>> method = MemoryContrast(pixels=50, regions=10)
    >>> method.build(info, {"t": info})
    >>> output = Output(None, {"decoder": torch.rand(2, 4, 8, 8)})
    >>> targets = method.targets(output, torch.zeros(2, 8, 8).long())  # no lesion at all
    >>> method(targets, targets, "t").shape
    torch.Size([2])
    """

    needs_mask = True
    balances = True
    loss_options = ("weights", "drawn", "lengths", "per_image", "temperature")

    def __init__(
        self,
        layers: str | Sequence[str] = ("decoder",),
        pixel: float = 0.1,
        region: float = 0.1,
        classes: int = 2,
        temperature: float = 0.1,
        pixels: int = 20_000,
        per_image: int = 16,
        regions: int = 2_000,
        drawn_pixels: int = 4_096,
        drawn_regions: int = 1_024,
        grid: int = 16,
    ) -> None:
        super().__init__()
        require_classes(classes, "memory_contrast")
        self.features = parse_layers("memory_contrast", layers)
        counts = (pixels, per_image, regions, drawn_pixels, drawn_regions, grid)
        if len(self.features) != 1 or temperature <= 0 or min(counts) < 1 or min(pixel, region) < 0:
            raise InputError(
                "memory_contrast needs one layer, a positive temperature, weights that are not negative, and lengths, "
                "numbers and grid of at least 1"
            )
        self.weights = {"pixel": pixel, "region": region}
        self.drawn = {"pixel": drawn_pixels, "region": drawn_regions}
        self.lengths, self.per_image = (pixels, regions), per_image
        self.classes, self.temperature, self.grid = classes, temperature, grid
        self.memories = nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes each teacher's memory."""
        (layer,) = self.features
        if layer not in student or not all(layer in layers for layers in teachers.values()):
            raise InputError("memory_contrast needs networks that declare their features (feature_info)")
        width = student[layer].channels
        self.memories = nn.ModuleDict(
            {
                module_key(name): Memory(width, layers[layer].channels, self.classes, *self.lengths)
                for name, layers in teachers.items()
            }
        )

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """Features (B, C, ...), averaged down, and masks of the classes (B, K, n) at that size."""
        feature = pool(output.features[self.features[0]].float(), self.grid)
        masks = class_masks(mask_of(mask, "memory_contrast"), feature.shape[2:], self.classes)
        return {"feature": feature, "masks": masks} | self.region(output, mask)

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) weighted sum of both terms; in training the teacher's features are stored first."""
        memory = cast(Memory, self.memories[module_key(network)])
        theirs = unit(teacher["feature"].flatten(2))
        own = memory(resize(student["feature"], teacher["feature"].shape[2:]).flatten(2))
        if memory.training:
            memory.store(theirs, teacher["masks"], self.per_image)
        pixels, regions = (
            weight * self._divergence(own, theirs, memory.draw(kind, self.drawn[kind]))
            for kind, weight in self.weights.items()
        )
        of_positions = (pixels + regions).reshape(len(theirs), *teacher["feature"].shape[2:])
        return mean_over_positions(of_positions, teacher.get("region"))

    def _divergence(self, student: Tensor, teacher: Tensor, entries: Tensor) -> Tensor:
        """(B, n) KL(teacher || student) of the similarities of directions (B, D, n) to entries (m, D)."""
        with exact(student):
            own, theirs = (
                torch.log_softmax(entries @ each / self.temperature, dim=1) for each in (student, teacher)
            )
            return (theirs.exp() * (theirs - own)).sum(1)


class ChannelMemory(nn.Module):
    """CIRKD v2's ring of a teacher's channels, and the student's projection head; all of it is state, as in `Memory`.

    Args:
        student: channels of the student's feature.
        teacher: channels of the teacher's.
        length: of the ring.
        positions: of each entry; shorter entries are filled up with 0, which changes no cosine.

    >>> memory = ChannelMemory(4, 3, length=5, positions=6)
    >>> memory.store(torch.rand(2, 3, 4), 256)
    >>> memory.draw(9, 4).shape
    torch.Size([5, 4])
    """

    ring: Tensor
    count: Tensor

    def __init__(self, student: int, teacher: int, length: int, positions: int) -> None:
        super().__init__()
        self.head = nn.Sequential(
            nn.Conv1d(student, teacher, 1, bias=False),
            nn.BatchNorm1d(teacher),
            nn.ReLU(),
            nn.Conv1d(teacher, teacher, 1, bias=False),
        )
        self.register_buffer("ring", torch.zeros(length, positions))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, feature: Tensor) -> Tensor:
        """The student's (B, C, n) as channels of the teacher's number, each of length 1 over positions."""
        with exact(feature):
            return unit(self.head(feature), 2)

    @torch.no_grad()
    def store(self, channels: Tensor, most: int) -> None:
        """Stores at most so many of the channels (B, C, n) of a batch, drawn at random."""
        found = channels.flatten(0, 1)
        # on the CPU: the state of its generator is in every checkpoint
        entries = found[torch.randperm(len(found))[:most].to(found.device)][-len(self.ring) :]
        places = (int(self.count) + torch.arange(len(entries), device=self.ring.device)) % len(self.ring)
        self.ring[places, : entries.shape[1]] = entries.to(self.ring.dtype)
        self.count += len(entries)

    @torch.no_grad()
    def draw(self, wanted: int, positions: int) -> Tensor:
        """(entries, positions) at random of those that are stored, at most `wanted`."""
        chosen = torch.randperm(min(int(self.count), len(self.ring)))[:wanted]
        return self.ring[chosen.to(self.ring.device), :positions]


@register_method("channel_contrast")
class ChannelContrast(DistillationMethod):
    """Channel-to-channel terms of CIRKD v2 (Yang et al., IEEE TPAMI 2023): within the batch, and with a memory.

    A channel is a direction over positions. The student's feature passes a learned head to the teacher's channels: 1x1,
    batch norm, ReLU, 1x1. Mini-batch term: for images i and j the similarities of the channels of i to those of j are
    cosines, each row becomes a distribution by softmax at the temperature, and KL(teacher || student) is averaged over
    rows and over j, as CIRKD does with positions. Memory term: the same for similarities to entries of a queue of the
    teacher's channels.

    What the paper leaves to its code is settled as there: the head is part of both terms, the queue is one for all
    classes, and at most 256 channels of a batch enter it. Here the queue begins empty, not with random vectors. The
    code also has a mean squared difference of the directions, with the weight 0: it is not built.

    Args:
        layers: one feature, see layers.py; the original takes the last map before the head.
        batch: weight of the mini-batch term.
        memory: weight of the memory term.
        temperature: of the softmax over similarities.
        channels: length of the queue.
        drawn_channels: entries that a batch is compared with.
        per_batch: channels of a batch that enter the queue.
        grid: maps are averaged to grid x grid positions, volumes to the cube with as many at most; the original
            averages 4 x 4 windows, to a 32nd of the image's side.

    Raises:
        InputError: a number below 1, or a network that does not declare its features (in `build`).

    >>> from segdistill.models.network import FeatureInfo
    >>> info = {"decoder": FeatureInfo("decoder", 4, 1)}
    >>> method = ChannelContrast(channels=50, drawn_channels=10)
    >>> method.build(info, {"t": info})
    >>> targets = method.targets(Output(None, {"decoder": torch.rand(2, 4, 8, 8)}))
    >>> targets["feature"].shape, method(targets, targets, "t").shape
    (torch.Size([2, 4, 256]), torch.Size([2]))
    """

    loss_options = ("weights", "temperature", "lengths", "drawn", "per_batch")

    def __init__(
        self,
        layers: str | Sequence[str] = ("decoder",),
        batch: float = 1.0,
        memory: float = 0.1,
        temperature: float = 0.1,
        channels: int = 10_000,
        drawn_channels: int = 2_048,
        per_batch: int = 256,
        grid: int = 16,
    ) -> None:
        super().__init__()
        self.features = parse_layers("channel_contrast", layers)
        if len(self.features) != 1 or temperature <= 0 or min(channels, drawn_channels, per_batch, grid) < 1:
            raise InputError(
                "channel_contrast needs one layer, a positive temperature, and lengths, numbers and grid of at least 1"
            )
        if min(batch, memory) < 0:
            raise InputError(f"channel_contrast: weights {batch} and {memory} must not be negative")
        self.weights = {"batch": batch, "memory": memory}
        self.lengths, self.drawn, self.per_batch = channels, drawn_channels, per_batch
        self.temperature, self.grid = temperature, grid
        self.memories = nn.ModuleDict()

    def build(self, student: Layers, teachers: Mapping[str, Layers]) -> None:
        """Makes each teacher's memory."""
        (layer,) = self.features
        if layer not in student or not all(layer in layers for layers in teachers.values()):
            raise InputError("channel_contrast needs networks that declare their features (feature_info)")
        own = student[layer].channels
        self.memories = nn.ModuleDict(
            {
                module_key(name): ChannelMemory(own, layers[layer].channels, self.lengths, self.grid**2)
                for name, layers in teachers.items()
            }
        )

    def targets(self, output: Output, mask: Tensor | None = None, network: str = STUDENT) -> Targets:
        """The feature (B, C, n), averaged to n positions."""
        feature = output.features[self.features[0]].float()
        if feature.ndim == 4:
            return {"feature": F.adaptive_avg_pool2d(feature, self.grid).flatten(2)}
        side = max(int(self.grid ** (2 / 3) + 1e-9), 1)
        return {"feature": F.adaptive_avg_pool3d(feature, side).flatten(2)}

    def forward(self, student: Targets, teacher: Targets, network: str = "") -> Tensor:
        """(B,) weighted sum of both terms; in training the teacher's channels are stored first."""
        memory = cast(ChannelMemory, self.memories[module_key(network)])
        theirs, own = unit(teacher["feature"], 2), memory(student["feature"])
        if memory.training:
            memory.store(theirs, self.per_batch)
        entries = memory.draw(self.drawn, theirs.shape[2])
        with exact(own):
            batch = self._divergence(
                *(torch.einsum("icn,jdn->icjd", each, each) for each in (own, theirs))
            ).mean(2)
            stored = self._divergence(own @ entries.T, theirs @ entries.T)
        return self.weights["batch"] * batch.mean(1) + self.weights["memory"] * stored.mean(1)

    def _divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """KL(teacher || student) of similarities, over the last axis."""
        own, theirs = (torch.log_softmax(each / self.temperature, -1) for each in (student, teacher))
        return (theirs.exp() * (theirs - own)).sum(-1)


@register_method("cirkd")
class CIRKD(Composed):
    """CIRKD (Yang et al. 2022): soft predictions, the mini-batch term and the memory terms.

    Args:
        prediction: weight of the soft predictions at temperature 1.
        batch: weight of the mini-batch pixel-to-pixel term.
        memory_pixel, memory_region: weights of the memory terms; without a memory if both are 0.
        layers, temperature, grid, classes: of all terms on features.
        pixels, per_image, regions, drawn_pixels, drawn_regions: see `MemoryContrast`.
        batch_channel, memory_channel: weights of the channel-to-channel terms of CIRKD v2, 1 and 0.1 there.
        channels, drawn_channels: see `ChannelContrast`.

    >>> CIRKD().weights
    {'prediction': 1.0, 'batch': 1.0, 'memory': 1.0}
    >>> CIRKD(batch_channel=1.0, memory_channel=0.1).weights  # CIRKD v2
    {'prediction': 1.0, 'batch': 1.0, 'memory': 1.0, 'channel': 1.0}
    """

    def __init__(
        self,
        prediction: float = 1.0,
        batch: float = 1.0,
        memory_pixel: float = 0.1,
        memory_region: float = 0.1,
        layers: str | Sequence[str] = ("decoder",),
        temperature: float = 0.1,
        grid: int = 16,
        classes: int = 2,
        pixels: int = 20_000,
        per_image: int = 16,
        regions: int = 2_000,
        drawn_pixels: int = 4_096,
        drawn_regions: int = 1_024,
        batch_channel: float = 0.0,
        memory_channel: float = 0.0,
        channels: int = 10_000,
        drawn_channels: int = 2_048,
    ) -> None:
        weights, lengths = (memory_pixel, memory_region), (pixels, per_image, regions)
        drawn = (drawn_pixels, drawn_regions)
        memory = MemoryContrast(layers, *weights, classes, temperature, *lengths, *drawn, grid)
        of_channels = (batch_channel, memory_channel)
        channel = ChannelContrast(layers, *of_channels, temperature, channels, drawn_channels, grid=grid)
        super().__init__(
            "cirkd",
            {
                "prediction": (prediction, SoftPrediction()),
                "batch": (batch, CrossImage(layers, temperature, grid)),
                "memory": (float(max(weights) > 0), memory),
                "channel": (float(max(of_channels) > 0), channel),
            },
        )
