"""The published checkpoints that mmrev converts. A new family is a file beside this one, and a line here."""
from . import inplace_abn, minrev, parameter_free, revbifpn, revvit

FAMILIES = {family.name: family for family in (
    revbifpn.FAMILY,
    inplace_abn.FAMILY,
    parameter_free.FAMILY,
    revvit.FAMILY,
    minrev.FAMILY,
)}
CONVERTED_ON_LOAD = (revbifpn.FAMILY, )  # whatever the file; of the others only the published files are
