"""Running a function a second time exactly as it ran the first time.

What a replay needs and must leave alone: the random number generators, autocast, the training flags and the buffers.
"""
from contextlib import ExitStack, contextmanager
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmrev import compat


def _rng_state(device: torch.device) -> Tensor:
    if device.type == 'cpu':
        return torch.get_rng_state()
    return compat.get_device_module(device).get_rng_state(device)


def _set_rng_state(device: torch.device, state: Tensor) -> None:
    if device.type == 'cpu':
        torch.set_rng_state(state)
    else:
        compat.get_device_module(device).set_rng_state(state, device)


def rng_devices(tensors: Sequence[Tensor]) -> Tuple[torch.device, ...]:
    """The generators that a function of ``tensors`` may use: the CPU's, and that of each device they lie on."""
    others = {x.device for x in tensors if x.device.type not in ('cpu', 'meta')}
    return (torch.device('cpu'), *sorted(others, key=str))


class RngSnapshot:
    """The generators' states before a function ran; keeps only those that the function drew from."""

    def __init__(self, devices: Sequence[torch.device]):
        self._states: Dict[torch.device, Tensor] = {device: _rng_state(device) for device in devices}

    def keep_used(self) -> None:
        """Call after the function ran: what it did not draw from need not be set for its replay."""
        self._states = {d: s for d, s in self._states.items() if not torch.equal(s, _rng_state(d))}

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
        self._settings = [(t, compat.is_autocast_enabled(t), compat.get_autocast_dtype(t)) for t in device_types]

    @property
    def enabled(self) -> bool:
        return any(enabled for _, enabled, _ in self._settings)

    @contextmanager
    def active(self) -> Iterator[None]:
        if not self.differs():
            yield
            return
        with ExitStack() as stack:
            for device_type, enabled, dtype in self._settings:
                stack.enter_context(torch.autocast(device_type, dtype=dtype, enabled=enabled, cache_enabled=False))
            yield

    def differs(self) -> bool:
        """Whether autocast is on, now or then."""
        return self.enabled or any(compat.is_autocast_enabled(t) for t, _, _ in self._settings)


# In training their output does not depend on their buffers, so that a replay can go without; in eval they write none.
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class ModuleSnapshot:
    """The modules of a tree, their training flags and their parameters, as they are now."""

    def __init__(self, module: nn.Module):
        self.modules = [module]
        seen = {module}
        for m in self.modules:  # grows while it is walked
            for child in m._modules.values():
                if child is not None and child not in seen:
                    seen.add(child)
                    self.modules.append(child)
        self._training = [m.training for m in self.modules]
        parameters = (p for m in self.modules for p in m._parameters.values() if p is not None)
        self.parameters = list({id(p): p for p in parameters}.values())
        self._versions = [p._version for p in self.parameters]

    def buffers(self) -> Iterator[Tuple[nn.Module, str, Tensor]]:
        """The buffers that a forward may read and write, by owner and name."""
        for m in self.modules:
            if type(m) not in _BATCH_NORMS:
                yield from ((m, name, b) for name, b in m._buffers.items() if b is not None)

    def changed_parameter(self) -> Optional[nn.Parameter]:
        """One that was replaced or modified in place since, with which a replay would compute something else."""
        present = {id(p) for m in self.modules for p in m._parameters.values()}
        for p, version in zip(self.parameters, self._versions):
            if p._version != version or id(p) not in present:
                return p
        return None

    def set_aside(self, before: Dict[Tuple[nn.Module, str], Tensor]) -> Tuple[List[bool], list]:
        """Training flags as they were; stand-ins for the buffers, so that the originals stay as they are.

        Args:
            before: Values of buffers where they are to differ from what they are now.

        Returns:
            What :meth:`put_back` needs.
        """
        flags = [m.training for m in self.modules]
        if flags != self._training:
            self._set_training(self._training)
        originals = [(m._buffers, dict(m._buffers)) for m in self.modules if m._buffers]
        copies: Dict[int, Tensor] = {}  # a buffer that two modules share stays shared
        for m, name, buffer in self.buffers():
            value = before.get((m, name), buffer)
            if id(value) not in copies:
                copies[id(value)] = value.clone()
            m._buffers[name] = copies[id(value)]
        for m in self.modules:
            if m.training and type(m) in _BATCH_NORMS:
                m._buffers.update(dict.fromkeys(m._buffers))
        return flags, originals

    def put_back(self, flags: List[bool], originals: list) -> None:
        for buffers, before in originals:
            buffers.clear()
            buffers.update(before)
        if flags != self._training:
            self._set_training(flags)

    def _set_training(self, flags: List[bool]) -> None:
        for m, training in zip(self.modules, flags):
            m.training = training


class Replay:
    """All of the above for one call of one function.

    Usage: ``replay = Replay(snapshot, devices, autocast)``, run the function, ``replay.finish()``; later
    ``with replay.again(): ...``.
    """

    def __init__(self, module: ModuleSnapshot, devices: Sequence[torch.device], autocast: AutocastSnapshot):
        self._module = module
        self._autocast = autocast
        self._rng = RngSnapshot(devices)
        clones = {id(b): b.clone() for _, _, b in module.buffers()}
        self._buffers = {(m, name): (b, clones[id(b)]) for m, name, b in module.buffers()}

    def finish(self) -> None:
        """Keep only what the function used or changed."""
        self._rng.keep_used()
        self._buffers = {(m, name): before for (m, name), (b, before) in self._buffers.items()
                         if m._buffers[name] is not b or not torch.equal(b, before)}

    @contextmanager
    def again(self) -> Iterator[None]:
        aside = self._module.set_aside(self._buffers)
        try:
            if self._rng or self._autocast.differs():
                with self._rng.rewound(), self._autocast.active():
                    yield
            else:
                yield
        finally:
            self._module.put_back(*aside)
