"""Data sets that mmrev generates. Importing this package loads nothing heavy."""
