"""InPlace-ABN for any model of the hosts, by config alone."""
from typing import Dict, List, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import nn

from mmrev.layers import convert_batchnorm
from mmrev.layers.inplace_abn import activated_twice
from mmrev.registry import HOOKS


@HOOKS.register_module()
class InPlaceABNHook(Hook):
    """Turn the model's batch norms into InPlace-ABN when training, validation or test starts, and log what was done.

    The weights are loaded before, so checkpoints of the model with batch norms serve as they are; and what is saved is
    such a checkpoint again: it loads with or without this hook (without, a ReLU that became leaky is a ReLU again).
    An exponential moving average (``EMAHook``) is converted with the model.

    Args:
        relu: ``'leaky'`` turns ReLUs after statistics of the batch into leaky ones, which changes the function; by
            default such pairs are left alone (:func:`mmrev.layers.convert_batchnorm`).
        slope: Of these.

    Raises:
        ValueError: When a run starts, if an activation follows a norm that holds one already.

    Example:
        >>> custom_hooks = [dict(type='mmrev.InPlaceABNHook')]
    """

    priority = 'LOW'  # after EMAHook has put the averaged weights into the checkpoint

    def __init__(self, relu: Optional[str] = None, slope: float = 0.01):
        self.relu = relu
        self.slope = slope
        self._eps: Optional[Dict[str, float]] = None  # of the rewritten layers, by the name of their weight

    def before_train(self, runner) -> None:
        """Convert the model, with the weights that training begins with."""
        self._convert(runner)

    def before_val(self, runner) -> None:
        """Convert it, unless training did."""
        self._convert(runner)

    def before_test(self, runner) -> None:
        """Convert it, with the weights to be tested."""
        self._convert(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Give the weights as those of batch norms."""
        for states in ('state_dict', 'ema_state_dict'):
            for name, weight in list(checkpoint.get(states, {}).items()):
                eps = (self._eps or {}).get(name[len('module.'):] if name.startswith('module.') else name)
                if eps is not None:
                    checkpoint[states][name] = weight.abs() + eps

    def _convert(self, runner) -> None:
        if self._eps is not None:
            return
        model = _unwrapped(runner.model)
        check_activations(model)
        conversion = convert_batchnorm(model, self.relu, self.slope)
        for hook in runner.hooks:
            if isinstance(getattr(hook, 'ema_model', None), nn.Module):
                convert_batchnorm(_unwrapped(hook.ema_model.module), self.relu, self.slope)
        self._eps = {f'{name}.weight'.lstrip('.'): m.eps for name, m in model.named_modules()
                     if hasattr(m, 'rewritten') and m.affine}
        runner.logger.info(f'InPlaceABNHook: {conversion}')


def check_activations(model: nn.Module) -> None:
    """Check that no activation follows a norm that holds one.

    Args:
        model: Any.

    Raises:
        ValueError: If one does.
    """
    twice = activated_twice(model)
    if twice:
        named: List[str] = [f'{act} after {norm}' for norm, act in twice.items()]
        more = f' and {len(named) - 4} more' if len(named) > 4 else ''
        raise ValueError(
            f'an activation follows a norm that is activated already: {", ".join(named[:4])}{more}. Set `act_cfg=None` '
            f'there; or use batch norms and `custom_hooks=[dict(type="mmrev.InPlaceABNHook")]`, which converts norms '
            f'with their activations')


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
