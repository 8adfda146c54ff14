"""One part of each kind for segdistill; importing this module registers them all."""

from segdistill_example_plugin import learned, light

__all__ = ["learned", "light"]
