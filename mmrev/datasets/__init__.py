"""Data sets that mmrev makes itself. Importing this package loads nothing heavy."""
