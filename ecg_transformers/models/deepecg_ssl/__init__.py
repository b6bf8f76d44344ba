"""DeepECG-SSL and ECG-FM: configuration, models and conversion of the original checkpoints."""
