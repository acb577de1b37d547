"""Families of published checkpoints. To add a family, add a file to this folder and a line here."""
from . import inplace_abn, inplace_abn_deeplab, minrev, parameter_free, revbifpn, revvit

FAMILIES = {family.name: family for family in (
    revbifpn.FAMILY,
    inplace_abn.FAMILY,
    inplace_abn_deeplab.FAMILY,
    parameter_free.FAMILY,
    revvit.FAMILY,
    minrev.FAMILY,
)}
CONVERTED_ON_LOAD = (revbifpn.FAMILY, )  # any file of these families; of the others, only published files
