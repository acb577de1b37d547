"""What is read from the launchers, and what is refused before processes are joined."""
import os

import pytest
import torch
from mmengine.config import Config

from mmrev.apis import adopt_launcher, prepare_cpu_processes
from mmrev.apis.distributed import _find_host

VARIABLES = dict(slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
                 mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'))
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason='with a GPU mmengine joins the processes')


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """An environment without any launcher; what a test sets in it is undone."""
    for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'OMPI_COMM_WORLD_LOCAL_SIZE',
                 *VARIABLES['slurm'], *VARIABLES['mpi']):
        monkeypatch.setenv(name, '')
        monkeypatch.delenv(name)


@pytest.mark.parametrize('launcher', VARIABLES)
def test_torch_learns_the_rank_from_the_launcher(launcher, monkeypatch):
    for name, value in zip(VARIABLES[launcher], '581'):
        monkeypatch.setenv(name, value)
    assert adopt_launcher(launcher) == 5
    assert [os.environ[name] for name in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK')] == ['5', '8', '1']


@pytest.mark.parametrize('local_size', [None, '8'])
def test_processes_of_mpirun_on_one_machine_meet_there(local_size, monkeypatch):
    """mmengine asks for MASTER_ADDR on GPUs, which mpirun does not set."""
    for name, value in zip((*VARIABLES['mpi'], 'OMPI_COMM_WORLD_LOCAL_SIZE'), ['5', '8', '5', local_size]):
        if value:
            monkeypatch.setenv(name, value)
    adopt_launcher('mpi')
    assert os.environ['MASTER_ADDR'] == '127.0.0.1'


@pytest.mark.parametrize('address', [None, 'localhost'])
def test_processes_of_mpirun_on_several_machines_are_told_where_to_meet(address, monkeypatch):
    for name, value in zip((*VARIABLES['mpi'], 'OMPI_COMM_WORLD_LOCAL_SIZE'), '5814'):
        monkeypatch.setenv(name, value)
    if address is None:
        with pytest.raises(ValueError, match='MASTER_ADDR is not set'):
            adopt_launcher('mpi')
    else:
        monkeypatch.setenv('MASTER_ADDR', address)
        adopt_launcher('mpi')
        assert os.environ['MASTER_ADDR'] == address


@pytest.mark.parametrize('launcher', ['pytorch', *VARIABLES])
def test_a_launcher_that_has_not_started_the_process_is_refused(launcher):
    with pytest.raises(ValueError, match='not set'):
        adopt_launcher(launcher)


def test_a_rank_beyond_the_number_of_processes_is_refused(monkeypatch):
    for name, value in (('RANK', '3'), ('WORLD_SIZE', '1'), ('LOCAL_RANK', '3')):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match='rank 3 is none of 1 processes'):
        adopt_launcher('pytorch')


@pytest.mark.parametrize('name, value', [('WORLD_SIZE', 'two'), ('LOCAL_RANK', '1.0'), ('MASTER_PORT', 'auto')])
def test_a_variable_of_a_launcher_that_is_no_number_is_named(name, value, monkeypatch):
    for each in ('RANK', 'WORLD_SIZE', 'LOCAL_RANK'):
        monkeypatch.setenv(each, '1')
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f'{name}={value} is not a number'):
        adopt_launcher('pytorch')


def test_a_host_that_is_not_known_is_named():
    with pytest.raises(ValueError, match='MASTER_ADDR=no.such.host.invalid cannot be found for 0 s'):
        _find_host('no.such.host.invalid', 0)
    _find_host('127.0.0.1')


def test_without_a_launcher_nothing_is_joined():
    cfg = Config(dict(model=dict(norm_cfg=dict(type='SyncBN')), launcher='none'))
    prepare_cpu_processes(cfg)
    assert 'model_wrapper_cfg' not in cfg and not torch.distributed.is_initialized()


@needs_no_gpu
@pytest.mark.parametrize('name', ['SyncBN', 'mmcv.SyncBN'])
def test_synchronised_norms_are_refused_without_gpus(name):
    cfg = Config(dict(model=dict(heads=[dict(norm_cfg=dict(type=name))]), launcher='pytorch'))
    with pytest.raises(ValueError, match='SyncBN needs GPUs'):
        prepare_cpu_processes(cfg)
    assert not torch.distributed.is_initialized()


@needs_no_gpu
def test_a_wrapper_of_the_users_is_kept_and_gets_no_device(monkeypatch):
    for name, value in dict(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0').items():
        monkeypatch.setenv(name, value)
    wrapper = dict(type='MMSeparateDistributedDataParallel', find_unused_parameters=True)
    cfg = Config(dict(model=dict(), launcher='pytorch', model_wrapper_cfg=wrapper))
    try:
        prepare_cpu_processes(cfg)
        assert torch.distributed.get_backend() == 'gloo'
    finally:
        torch.distributed.destroy_process_group()
    assert cfg.model_wrapper_cfg == dict(wrapper, device_ids=None)
