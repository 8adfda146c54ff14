"""How good a segmentation is, how sure that is, and the report that says so (no torch; but complexity.py)."""
