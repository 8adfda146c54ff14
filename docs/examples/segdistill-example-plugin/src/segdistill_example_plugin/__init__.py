"""One part of each kind for segdistill: `learned` needs torch, `light` does not."""
