"""The model file in use: needs numpy, Pillow and onnxruntime, and never torch."""
