"""Published checkpoints that mmrev converts. To add a family, add a file to this folder and a line here."""
from . import inplace_abn, minrev, parameter_free, revbifpn, revvit

FAMILIES = {family.name: family for family in (
    revbifpn.FAMILY,
    inplace_abn.FAMILY,
    parameter_free.FAMILY,
    revvit.FAMILY,
    minrev.FAMILY,
)}
CONVERTED_ON_LOAD = (revbifpn.FAMILY, )  # any file of these families; of the others, only published files
