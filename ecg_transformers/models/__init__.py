"""ECG foundation models, one folder each."""
