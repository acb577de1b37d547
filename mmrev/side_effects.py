"""Run code without side effects: save and restore random states, suppress output and warnings."""
import contextlib
import io
import logging
import random
import warnings
from typing import Any, Dict, Iterator

import numpy as np
import torch
from mmengine.logging import MMLogger


def random_states() -> Dict[str, Any]:
    """Return the states of the default random generators of this process, as plain values and tensors."""
    kind, keys, *rest = np.random.get_state()
    states = dict(python=random.getstate(), numpy=(kind, keys.tolist(), *rest), torch=torch.get_rng_state())
    if torch.cuda.is_initialized():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: Dict[str, Any]) -> None:
    """Set the generators to what `random_states` returned."""
    version, internal, gauss = states['python']
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(states['numpy'])
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


@contextlib.contextmanager
def random_states_kept() -> Iterator[None]:
    """Restore the random states at the end of the block."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


@contextlib.contextmanager
def unnoticed() -> Iterator[None]:
    """Suppress all output, and restore the random states at the end of the block."""
    MMLogger.get_current_instance()  # created now, because it keeps the stream that it finds at its creation
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with random_states_kept(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(disabled)
