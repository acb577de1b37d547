"""Weights, gradients and optimizer states in shards, one for each process, by FSDP2 (``fully_shard``)."""
import re
from itertools import chain
from typing import Any, Iterator, Sequence

from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import is_distributed, is_main_process
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mmrev.registry import STRATEGIES
from mmrev.reversible import Coupling


@STRATEGIES.register_module()
class FSDP2Strategy(DDPStrategy):
    """FSDP2 for reversible networks, with the checkpoints of a single process.

    Each process holds a part of every weight, of its gradient and of the optimizer's states. The weights of a coupling
    are gathered when it runs and when it is undone, those of each module in ``modules`` likewise, those of the rest
    once per iteration. Checkpoints hold whole tensors, as mmengine's ``Runner`` reads and writes them; either can
    resume the other's. In a single process nothing is sharded. Needs PyTorch 2.6. ::

        runner_type = 'FlexibleRunner'
        strategy = dict(type='mmrev.FSDP2Strategy', modules=[r'backbone\\.layers\\.\\d+', 'neck'])

    Args:
        modules: Regular expressions for the whole names of further modules to shard on their own, for example the
            blocks of a network that is not reversible.
        reshard_after_forward: Whether their weights and those of couplings are released after the forward. ``False``
            keeps them until the backward: less communication for more memory.
        **kwargs: Arguments of mmengine's ``DDPStrategy``.

    Raises:
        ValueError: When the model is prepared, if an entry of ``modules`` matches nothing.
    """

    def __init__(self, *, modules: Sequence[str] = (), reshard_after_forward: bool = True, **kwargs: Any):
        super().__init__(**kwargs)
        self.modules = modules
        self.reshard_after_forward = reshard_after_forward

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        """Shard a model whose weights have been initialized, from the inside out."""
        if is_distributed():
            from torch.distributed.fsdp import fully_shard
            model = self.convert_model(model)
            for module in [*chain(_couplings(model), *(_matching(model, name) for name in self.modules))][::-1]:
                fully_shard(module, reshard_after_forward=self.reshard_after_forward)
            fully_shard(model)
        return model.to(get_device())  # also tells the data preprocessor

    def model_state_dict(self) -> dict:
        """The whole weights, on the CPU; a collective."""
        state = self.model.state_dict()
        for key, value in state.items():
            state[key] = _whole(value)
        return state

    def optim_state_dict(self) -> dict:
        """The whole states of the optimizer, on the CPU; a collective."""
        return tree_map(_whole, super().optim_state_dict())

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        """Load whole weights, of which each process keeps its part; as mmengine does for a plain model."""
        from torch.distributed.tensor.experimental import implicit_replication
        with implicit_replication():  # a plain tensor counts as one that every process has
            super().load_model_state_dict(state_dict, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load whole states of the optimizer, of which each process keeps its part."""
        groups = zip(self.optim_wrapper.param_groups, state_dict['param_groups'])
        weights = {key: p for own, saved in groups for key, p in zip(saved['params'], own['params'])}
        state = {key: tree_map(lambda x, p=weights[key]: _part(x, p), entry)
                 for key, entry in state_dict['state'].items()}
        super().load_optim_state_dict({**state_dict, 'state': state})

    def save_checkpoint(self, filename: str, *, save_optimizer: bool = True, **kwargs: Any) -> None:
        """Write the checkpoint in the main process; all of them gather it."""
        if is_main_process():
            super().save_checkpoint(filename, save_optimizer=save_optimizer, **kwargs)
        else:
            self.model_state_dict()
            if save_optimizer and hasattr(self, 'optim_wrapper'):
                self.optim_state_dict()


def _couplings(module: nn.Module) -> Iterator[nn.Module]:
    """The couplings within a module, but none within another."""
    for child in module.children():
        yield from (child, ) if isinstance(child, Coupling) else _couplings(child)


def _matching(model: nn.Module, pattern: str) -> Sequence[nn.Module]:
    found = [module for name, module in model.named_modules() if name and re.fullmatch(pattern, name)]
    if not found:
        raise ValueError(f'no module of {type(model).__name__} is called `{pattern}` (strategy.modules)')
    return found


def _whole(x: Any) -> Any:
    """A tensor without shards on the CPU; anything else as it is."""
    return (x.full_tensor() if hasattr(x, 'full_tensor') else x).cpu() if isinstance(x, Tensor) else x


def _part(x: Any, weight: Tensor) -> Any:
    """The part of a state that belongs to this process's part of a weight; anything else as it is."""
    if not (isinstance(x, Tensor) and hasattr(weight, 'full_tensor') and x.shape == weight.shape):
        return x
    from torch.distributed.tensor import distribute_tensor
    return distribute_tensor(x.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)
