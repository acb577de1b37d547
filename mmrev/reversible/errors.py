"""The one error of the engine."""
import re

from torch import Tensor


class ReversibilityError(RuntimeError):
    """A step cannot be inverted, replayed or differentiated as it was written.

    The message names the step (its index in the sequence), the module path of its ``f`` and the shapes involved, and
    says what to change.
    """


FSDP = ('FullyShardedDataParallel, which hides its parameters from the reversible backward; apply '
        '`torch.distributed.fsdp.fully_shard` to the couplings and to the whole network, or set `reversible=False`')

LEFT_BEHIND = ('stored on a module, by a forward hook, or for another step. Only what a function returns takes part in '
               'the backward, so its gradient would be lost. Return it as a stream, detach it, or set '
               '`reversible=False`')

_NEEDS_GRAPH = re.compile(r'requires? grad|requires_grad=False')


def refuse_missing_graph(error: RuntimeError, step: str) -> None:
    """Explain an error of PyTorch in a function that needs a graph in the forward, or changes a leaf in place.

    Raises:
        ReversibilityError: Naming the step, if ``error`` is such an error.
    """
    if isinstance(error, ReversibilityError):
        return
    if 'in-place operation' in str(error):
        raise ReversibilityError(
            f'{step} modifies its input, or a parameter, in place ({error}), so the step cannot be undone; use '
            f'`inplace=False` in its first layer, or clone the input') from error
    if _NEEDS_GRAPH.search(str(error)):
        raise ReversibilityError(
            f'{step} needs a graph, and its first evaluation runs under `no_grad` ({error}); do this only `if '
            f'x.requires_grad`, set `keep` to "graph" for this step, or set `reversible=False`') from error


def captured(step: str, x: Tensor) -> str:
    """The error message for a tensor that a function uses but does not own."""
    if getattr(x, '_is_flat_param', False):
        return f'{step} is trained within {FSDP}'
    return (f'{step} uses a tensor (shape {tuple(x.shape)}) that requires grad but is neither one of its parameters '
            f'nor one of its inputs; its gradient would be lost. Register it as a parameter, pass it as a stream, or '
            f'detach it')
