"""Data sets that mmrev generates, and transforms. Importing this package imports nothing large."""
