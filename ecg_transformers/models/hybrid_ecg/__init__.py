"""Hybrid ECG: a masked autoencoder of ECGs with a contrast between views."""
