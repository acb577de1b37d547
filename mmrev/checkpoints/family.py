"""What a file in `families` states about the checkpoints of one publisher."""
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Tuple

from .published import Model

if TYPE_CHECKING:
    from torch import Tensor

Weights = Dict[str, 'Tensor']


class Request(NamedTuple):
    """What is known and wanted of a file that is converted."""

    file: str
    model: Optional[Model] = None  # whose published file it is
    md5: str = ''
    any_hash: bool = False  # convert a file that is none of the published ones
    trained_with: Optional[str] = None  # norms of the weights, see `families.inplace_abn`
    target: Optional[str] = None  # norms of the network that the result is for


class Family(NamedTuple):
    """Checkpoints of one publisher: recognised by their names, converted to mmrev's, checked.

    ``convert`` and ``check_complete`` raise `KeyError` for names that do not belong, and for those that are missing.
    """

    name: str  # on the command line
    of: str  # in words, after 'a checkpoint of'
    source: str  # where one gets such a checkpoint
    is_published_name: Callable[[str], bool]
    convert: Callable[[Weights], Weights]
    check_complete: Callable[[Weights], None] = lambda weights: None
    adapt: Optional[Callable[[Weights, Request], Tuple[Weights, Dict[str, Any]]]] = None  # the values, before the names
