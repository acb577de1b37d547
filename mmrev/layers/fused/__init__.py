"""Forms of the formulas in :mod:`mmrev.layers` that are faster or keep less for backward.

The plain form is the reference, and what compiles, exports, traces or watches a network sees it. One guard decides:
:func:`.guard.may_fuse`.
"""
