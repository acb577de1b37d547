"""Predict the memory of a training step, and fit it into a budget."""
