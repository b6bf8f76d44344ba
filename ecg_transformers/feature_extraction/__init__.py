"""The way from millivolts to model input: lead names, signal operations and the feature extractor."""
