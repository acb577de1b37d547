"""Several processes without a GPU.

mmengine starts them with ``torch.cuda.set_device`` and passes a CUDA device id to ``DistributedDataParallel``. Both can
be avoided from outside: its `Runner` uses an existing process group, and takes the arguments of the wrapper from
``cfg.model_wrapper_cfg``. With a GPU this module does nothing, and mmengine's own path runs.
"""
import contextlib
import datetime
import os
import re
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Any, Iterator

if TYPE_CHECKING:
    from mmengine.config import Config

# Variables in which each launcher stores the rank, the number of processes and the rank on this machine.
_RANK_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'))


def adopt_launcher(launcher: str) -> int:
    """Set torch's variables (``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``) from those of `launcher`.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Returns:
        The rank of this process; 0 for ``'none'``.

    Raises:
        ValueError: If the launcher has not started this process, gives it an invalid rank or port, or does not say
            where several machines meet, or names no host there.
    """
    if launcher == 'none':
        return 0
    names = _RANK_VARIABLES[launcher]
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ValueError(f'it has not started this process: {", ".join(missing)} not set')
    for variable, name in zip(_RANK_VARIABLES['pytorch'], names):
        os.environ[variable] = os.environ[name]
    for name in (*names, 'MASTER_PORT'):
        if not re.fullmatch(r'-?\d+', os.environ.get(name, '0')):
            raise ValueError(f'{name}={os.environ[name]} is not a number')
    if not 0 <= int(os.environ['RANK']) < int(os.environ['WORLD_SIZE']):  # gloo would wait for half an hour
        raise ValueError(f'rank {os.environ["RANK"]} is none of {os.environ["WORLD_SIZE"]} processes')
    if 'MASTER_ADDR' in os.environ:
        _find_host(os.environ['MASTER_ADDR'])
    if launcher == 'mpi' and 'MASTER_ADDR' not in os.environ:  # mpirun does not set it, and mmengine asks for it
        if os.environ.get('OMPI_COMM_WORLD_LOCAL_SIZE', os.environ['WORLD_SIZE']) != os.environ['WORLD_SIZE']:
            raise ValueError('MASTER_ADDR is not set; on several machines, name that of process 0: '
                             'mpirun -x MASTER_ADDR=HOST')
        _set_master(launcher)
    return int(os.environ['RANK'])


def prepare_cpu_processes(cfg: 'Config') -> None:
    """Join the processes of ``cfg.launcher`` with gloo, if there are several and no accelerator to train on.

    Call it before the `Runner` is built. It sets ``cfg.model_wrapper_cfg`` such that the model is wrapped without a
    device id.

    Args:
        cfg: The config; ``cfg.launcher`` is ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.

    Raises:
        ValueError: If the launcher has not started this process, or the model has a layer that needs GPUs.
    """
    from mmengine.device import get_device
    if cfg.get('launcher', 'none') == 'none' or get_device() != 'cpu':
        return
    _refuse_sync_bn(cfg.model)
    adopt_launcher(cfg.launcher)
    _set_master(cfg.launcher)
    import torch
    if not torch.distributed.is_initialized():
        seconds = cfg.get('env_cfg', {}).get('dist_cfg', {}).get('timeout', 1800)
        torch.distributed.init_process_group('gloo', timeout=datetime.timedelta(seconds=seconds))
    wrapper = cfg.get('model_wrapper_cfg') or dict(
        type='MMDistributedDataParallel', broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False))
    cfg.model_wrapper_cfg = dict(wrapper, device_ids=None)


@contextlib.contextmanager
def alone(launcher: str) -> Iterator[None]:
    """Join a process group of one, for norm layers that ask for the world size before the real group exists."""
    from torch import distributed
    joined = False
    if launcher != 'none' and distributed.is_available() and not distributed.is_initialized():
        with contextlib.suppress(RuntimeError):  # gloo finds no network; the run may use another backend
            distributed.init_process_group('gloo', store=distributed.HashStore(), rank=0, world_size=1)
            joined = True
    try:
        yield
    finally:
        if joined:
            distributed.destroy_process_group()


def _find_host(name: str, seconds: float = 60) -> None:
    """Wait until a name of a host is known, as those of containers soon are. PyTorch would wait for half an hour."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.getaddrinfo(name, None)
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ValueError(f'MASTER_ADDR={name} cannot be found for {seconds:g} s: {error.strerror}') from error
        time.sleep(1)


def _set_master(launcher: str) -> None:
    """Set the address and port where the processes meet, unless they are set."""
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        nodes = os.environ['SLURM_NODELIST']
        hosts = subprocess.run(['scontrol', 'show', 'hostname', nodes], capture_output=True, text=True, check=True)
        os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
    os.environ.setdefault('MASTER_ADDR', '127.0.0.1')
    os.environ.setdefault('MASTER_PORT', '29500')


def _refuse_sync_bn(entry: Any) -> None:
    """Refuse SyncBatchNorm, which takes no CPU tensors but only says so in the first forward."""
    if isinstance(entry, dict):
        if str(entry.get('type')).split('.')[-1] == 'SyncBN':
            raise ValueError("SyncBN needs GPUs, but these processes run on the CPU: set norm_cfg=dict(type="
                             "'BN'), or use one process")
        entry = list(entry.values())
    if isinstance(entry, (list, tuple)):
        for value in entry:
            _refuse_sync_bn(value)
