"""Formulas of :mod:`mmrev.layers` in forms that are faster or keep less for backward.

The plain form is the reference, and what compiles, exports, traces or watches a network sees it: :mod:`.guard`.
"""
