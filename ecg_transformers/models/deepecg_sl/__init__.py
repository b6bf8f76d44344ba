"""DeepECG-SL: a one-dimensional EfficientNetV2 over twelve leads."""
