"""Uses a model file: needs numpy, Pillow and onnxruntime, never torch."""
