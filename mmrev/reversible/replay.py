"""Running a function a second time exactly as it ran the first time.

What a replay needs and must leave alone: the random number generators, autocast, the training flags and the buffers.
"""
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn


def _rng_state(device: torch.device) -> Tensor:
    if device.type == 'cpu':
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(device)


def _set_rng_state(device: torch.device, state: Tensor) -> None:
    if device.type == 'cpu':
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)


def rng_devices(tensors: Sequence[Tensor]) -> Tuple[torch.device, ...]:
    """The generators that a function of ``tensors`` may use: the CPU's, and that of each device they lie on."""
    others = {x.device for x in tensors if x.device.type not in ('cpu', 'meta')}
    return (torch.device('cpu'), *sorted(others, key=str))


class RngSnapshot:
    """The generators' states before a function ran; keeps only those that the function drew from."""

    def __init__(self, devices: Sequence[torch.device]):
        self._states: Dict[torch.device, Tensor] = {device: _rng_state(device) for device in devices}

    def keep_used(self) -> 'RngSnapshot':
        """Call after the function ran: what it did not draw from need not be set for its replay."""
        self._states = {d: s for d, s in self._states.items() if not torch.equal(s, _rng_state(d))}
        return self

    @contextmanager
    def rewound(self) -> Iterator[None]:
        """The generators as they were then; afterwards as they are now."""
        now = {device: _rng_state(device) for device in self._states}
        try:
            for device, state in self._states.items():
                _set_rng_state(device, state)
            yield
        finally:
            for device, state in now.items():
                _set_rng_state(device, state)

    def __bool__(self) -> bool:
        return bool(self._states)


class AutocastSnapshot:
    """Autocast as it is now, for the device types given.

    A weight that autocast casts without a graph must not be kept in its cache (a later use with a graph would find it
    there and lose its gradient), so everything here runs with ``cache_enabled=False``.
    """

    def __init__(self, device_types: Sequence[str]):
        self._settings = [(t, torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in device_types]

    @property
    def enabled(self) -> bool:
        return any(enabled for _, enabled, _ in self._settings)

    @contextmanager
    def active(self) -> Iterator[None]:
        if not self._differs():
            yield
            return
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield

    def _differs(self) -> bool:
        return self.enabled or any(torch.is_autocast_enabled(t) for t, _, _ in self._settings)


class ModuleSnapshot:
    """Training flags of a module tree, and its parameters and buffers by owner, as they are now."""

    def __init__(self, module: nn.Module):
        self.modules = list(module.modules())
        self._training = [m.training for m in self.modules]
        self.parameters = _unique(p for m in self.modules for p in m._parameters.values())

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Training flags as they were; buffers copied for the time, so that the originals stay as they are."""
        flags = [m.training for m in self.modules]
        originals = [(m, name, b) for m in self.modules for name, b in m._buffers.items() if b is not None]
        copies: Dict[int, Tensor] = {}
        try:
            for m, name, buffer in originals:
                if id(buffer) not in copies:
                    copies[id(buffer)] = buffer.clone()
                m._buffers[name] = copies[id(buffer)]
            if flags != self._training:
                self._set_training(self._training)
            yield
        finally:
            for m, name, buffer in originals:
                m._buffers[name] = buffer
            if flags != self._training:
                self._set_training(flags)

    def _set_training(self, flags: List[bool]) -> None:
        for m, training in zip(self.modules, flags):
            m.training = training


def _unique(parameters) -> List[nn.Parameter]:
    return list({id(p): p for p in parameters if p is not None}.values())


class Replay:
    """All of the above for one call of one function.

    Usage: ``replay = Replay(f, devices)``, run ``f``, ``replay.finish()``; later, ``with replay.again(): f(...)``.
    """

    def __init__(self, f: nn.Module, devices: Sequence[torch.device], autocast: AutocastSnapshot):
        self.module = ModuleSnapshot(f)
        self._autocast = autocast
        self._rng: Optional[RngSnapshot] = RngSnapshot(devices)

    def finish(self) -> None:
        self._rng = self._rng.keep_used() or None

    @contextmanager
    def again(self) -> Iterator[None]:
        with ExitStack() as stack:
            if self._rng is not None:
                stack.enter_context(self._rng.rewound())
            stack.enter_context(self._autocast.active())
            stack.enter_context(self.module.replayed())
            yield
