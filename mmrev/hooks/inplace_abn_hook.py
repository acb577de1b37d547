"""InPlace-ABN for any model of the hosts, by config alone."""
import copy
from typing import Dict, List, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from mmrev.layers import convert_batchnorm, to_batchnorm
from mmrev.layers.inplace_abn.pairs import ACTIVATED, is_activation
from mmrev.layers.inplace_abn.transfer import activated_twice
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
        ValueError: When a run starts, or in its first iteration, if an activation follows a norm that holds one
            already.

    Example:
        >>> custom_hooks = [dict(type='mmrev.InPlaceABNHook')]
    """

    priority = 'LOW'  # after EMAHook has put the averaged weights into the checkpoint

    def __init__(self, relu: Optional[str] = None, slope: float = 0.01):
        self.relu = relu
        self.slope = slope
        self._watched: Optional[list] = None  # handles of what watches the first iteration
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

    def before_train_epoch(self, runner) -> None:
        """Watch the first iteration for activations that nothing but a forward shows."""
        if self._watched is None:
            self._watched = watch_activations(_unwrapped(runner.model))

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Watch no longer."""
        while self._watched:
            self._watched.pop().remove()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Convert weights that are loaded into a model that is converted already."""
        if self._eps is None:
            return
        plain = to_batchnorm(copy.deepcopy(_unwrapped(runner.model)))
        plain.load_state_dict(checkpoint['state_dict'], strict=False)
        convert_batchnorm(plain, self.relu, self.slope)
        checkpoint['state_dict'] = plain.state_dict()

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
        raise ValueError(_TWICE.format(', '.join(named[:4]) + more))


_TWICE = ('an activation follows a norm that is activated already: {}. Set `act_cfg=None` there; or use batch norms '
          'and `custom_hooks=[dict(type="mmrev.InPlaceABNHook")]`, which converts norms with their activations')


def watch_activations(model: nn.Module) -> list:
    """Raise in the forward where an activation module gets what an activated norm just gave.

    Args:
        model: Any.

    Returns:
        Handles; ``remove()`` of each ends it.
    """
    names, given = {m: name for name, m in model.named_modules()}, WeakIdKeyDictionary()

    def note(norm, _, output):
        if norm.activation != 'identity':
            given[output] = names[norm]

    def look(act, inputs):
        norm = given.get(inputs[0]) if inputs and isinstance(inputs[0], Tensor) else None
        if norm is not None and not isinstance(act, nn.Identity):
            raise ValueError(_TWICE.format(f'{names[act]} after {norm}'))

    return [m.register_forward_hook(note) if isinstance(m, ACTIVATED) else m.register_forward_pre_hook(look)
            for m in model.modules() if isinstance(m, ACTIVATED) or is_activation(m)]


def _unwrapped(model: nn.Module) -> nn.Module:
    return model.module if is_model_wrapper(model) else model
