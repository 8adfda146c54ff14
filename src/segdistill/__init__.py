"""Distil big medical-image segmentation networks into small ones that run anywhere."""

__version__ = "0.1.0"
