"""From a trained network to one model file, with the gate that it must pass."""
