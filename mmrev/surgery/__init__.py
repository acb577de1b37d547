"""Changing a model that exists."""
