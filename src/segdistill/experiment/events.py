"""What a run tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """`text` names a part of the run, `done` of `total` its progress; total 0 is a message.

    >>> Event("stage student", 3, 10).finished
    False
    """

    text: str
    done: int = 0
    total: int = 0
    detail: str = ""

    @property
    def finished(self) -> bool:
        """Whether the named part is over (or was only a message)."""
        return self.done >= self.total
