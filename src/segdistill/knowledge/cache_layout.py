"""How what a teacher says of one sample is kept: a record of bytes of fixed length, its numbers in half precision."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segdistill.errors import InputError
from segdistill.knowledge.base import Said

Kind = Literal["half", "float32", "bool", "int64"]
FEW = 64
"""Up to so many numbers per sample are kept as they are: cosines and errors cost nothing."""
_LARGEST = 15  # the largest value of a record becomes at most 2^15, which leaves half precision its whole range below


@dataclass(frozen=True)
class Item:
    """One named tensor of a record; `offset` and `bytes` say where it lies."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    offset: int
    bytes: int


class Layout:
    """Where in a record the items lie.

    Numbers are kept in half precision times a power of two of each record, so that neither large nor small ones
    are lost: the relative error is at most 2^-11 down to 2^-29 of the record's largest value. Up to 64 numbers per
    sample stay float32.

    >>> said = {"map": torch.full((2, 16, 16), 1e9), "known": torch.tensor([True, False])}
    >>> layout = Layout.of(said)
    >>> layout.length  # 512 bytes and a power of two, and a boolean, each padded to 8
    528
    >>> layout.unpack(torch.from_numpy(layout.pack(said)))["map"][0, 0, 0].item()
    999817216.0
    """

    def __init__(self, items: tuple[Item, ...]) -> None:
        self.items = items
        self.length = max((_padded(item.offset + item.bytes) for item in items), default=0)

    @classmethod
    def of(cls, said: Said) -> Layout:
        """The layout of what was said of a batch.

        Raises:
            InputError: a value that is not one per sample.
        """
        items: list[Item] = []
        offset = 0
        batch = {len(value) if value.ndim else 0 for value in said.values()}
        if len(batch) != 1 or 0 in batch:
            raise InputError("it does not say one thing per sample")
        for name, value in said.items():
            shape, count = tuple(value.shape[1:]), math.prod(value.shape[1:])
            kind: Kind = "bool" if value.dtype == torch.bool else "int64"
            if value.is_floating_point():
                kind = "float32" if count <= FEW else "half"
            size = count * {"half": 2, "float32": 4, "bool": 1, "int64": 8}[kind] + 4 * (kind == "half")
            items.append(Item(name, shape, kind, offset, size))
            offset = _padded(offset + size)
        return cls(tuple(items))

    def pack(self, said: Said) -> NDArray[np.uint8]:
        """(B, length) records.

        Raises:
            InputError: a number is not finite.
        """
        batch = len(next(iter(said.values())))
        records = np.zeros((batch, self.length), np.uint8)
        for item in self.items:
            value = said[item.name].detach().reshape(batch, -1).cpu()
            if item.kind in ("half", "float32"):
                value = value.float()
                if not bool(torch.isfinite(value).all()):
                    raise InputError("it says numbers that are not finite")
            parts = [value.contiguous()]
            if item.kind == "half":
                power = _power(value)
                parts = [(value / power).half(), power]
            content = np.concatenate([part.numpy().view(np.uint8) for part in parts], axis=1)
            records[:, item.offset : item.offset + item.bytes] = content
        return records

    def unpack(self, records: Tensor) -> Said:
        """What was said, from uint8 records (b, length); numbers in float32."""
        said: Said = {}
        for item in self.items:
            content = records[:, item.offset : item.offset + item.bytes]
            if item.kind == "half":
                power = content[:, -4:].contiguous().view(torch.float32)
                value = content[:, :-4].contiguous().view(torch.float16).float() * power
            else:
                value = content.contiguous().view(getattr(torch, item.kind))
            said[item.name] = value.reshape(len(records), *item.shape)
        return said

    def to_list(self) -> list[dict[str, Any]]:
        """For a JSON file."""
        return [asdict(item) | {"shape": list(item.shape)} for item in self.items]

    @classmethod
    def from_list(cls, content: list[dict[str, Any]]) -> Layout:
        """The reverse of `to_list`."""
        return cls(tuple(Item(**{**item, "shape": tuple(item["shape"])}) for item in content))


def _padded(offset: int) -> int:
    return -(-offset // 8) * 8


def _power(values: Tensor) -> Tensor:
    """(B, 1) powers of two by which values (B, n) fit into half precision."""
    largest = values.abs().amax(1, keepdim=True)
    exponent = torch.frexp(largest).exponent.clamp(min=-100) - _LARGEST
    return torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent), 1.0)
