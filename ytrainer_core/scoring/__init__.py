"""Corpus quality from the model's own signals."""
