"""Malformed inputs end in at most three lines, with status 2 and nothing written. `make test` runs a sample."""
import pytest

from support.commands import ended, import_commands, mmrev, start

from . import campaign

FAULTS = campaign.faults()
SAMPLE = FAULTS[::35]
IN_PROCESSES = FAULTS[::len(FAULTS) // 60]


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    """Write data and checkpoints."""
    import_commands('mmdet', 'mmpretrain')
    return campaign.prepare(tmp_path_factory.mktemp('good'))


def check(fault, configs, tmp_path, **how):
    wrong, errors = campaign.run(fault, configs, tmp_path / 'run', **how)
    assert not wrong, f'{fault.name}: {wrong}\n{errors}'


@pytest.mark.slow
@pytest.mark.parametrize('fault', SAMPLE, ids=lambda fault: fault.name)
def test_it_ends_in_two_lines_with_nothing_written(fault, configs, tmp_path):
    check(fault, configs, tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize('fault', FAULTS, ids=lambda fault: fault.name)
def test_of_all_each_ends_in_two_lines_with_nothing_written(fault, configs, tmp_path):
    check(fault, configs, tmp_path)


@pytest.mark.faults
@pytest.mark.subprocess
@pytest.mark.parametrize('fault', IN_PROCESSES, ids=lambda fault: fault.name)
def test_a_process_of_its_own_ends_as_a_fork_does(fault, configs, tmp_path):
    def command(*arguments, cwd):
        status, _, errors = ended(start(*mmrev(*arguments), cwd=cwd))
        return status, errors

    check(fault, configs, tmp_path, command=command)


@pytest.mark.faults
def test_there_are_as_many_as_promised():
    assert len(FAULTS) >= 600 and len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert len(IN_PROCESSES) >= 60
