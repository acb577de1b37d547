"""Forms of the formulas in :mod:`mmrev.layers` that are faster or store less for backward.

The plain form is the reference, and the one that compilers, exporters, tracers and hooks see. One guard decides:
:func:`.guard.may_fuse`.
"""
