"""The definition of a family: the checkpoints of one publisher."""
from typing import TYPE_CHECKING, Any, Callable, Dict, NamedTuple, Optional, Tuple

from .published import Model

if TYPE_CHECKING:
    from torch import Tensor

Weights = Dict[str, 'Tensor']


class Request(NamedTuple):
    """A file to convert, and the options of the conversion."""

    file: str
    model: Optional[Model] = None  # model whose published file it is
    md5: str = ''
    any_hash: bool = False  # convert a file even if it is not a published one
    trained_with: Optional[str] = None  # norms of the weights, see `families.inplace_abn`
    target: Optional[str] = None  # norms of the network that will load the result


class Family(NamedTuple):
    """Checkpoints of one publisher: how to recognize, convert and check them.

    ``convert`` raises `KeyError` for a foreign name, ``check_complete`` for a missing one (`complete` has the parts of
    such a check).
    """

    name: str  # name on the command line, and of its file
    of: str  # in words, after 'a checkpoint of'
    source: str  # in words, after 'Give ': a checkpoint to use instead
    is_published_name: Callable[[str], bool]
    convert: Callable[[Weights], Weights]
    check_complete: Callable[[Weights], None]
    # Changes values, before `convert`; returns facts for the meta as well.
    adapt: Optional[Callable[[Weights, Request], Tuple[Weights, Dict[str, Any]]]] = None
