"""A problem is two lines, whatever was raised, and in whatever process."""
import pytest
from torch.utils.data import DataLoader

from mmrev.problems import ProblemError, closest, one_line, phase


def test_a_problem_is_what_is_wrong_and_how_to_fix_it():
    error = ProblemError('`x.pth` is empty', ' Copy it again ')
    assert (error.what, error.fix) == ('`x.pth` is empty', 'Copy it again')
    assert str(error) == '`x.pth` is empty\n  Copy it again'


def test_the_innermost_phase_names_an_exception_and_keeps_it_as_the_cause():
    with pytest.raises(ProblemError) as raised, phase('training'), phase('iteration 7', 'Use less', status=1):
        raise RuntimeError('out of\n memory')
    assert raised.value.what == 'iteration 7: out of memory'
    assert (raised.value.fix, raised.value.status) == ('Use less', 1)
    assert isinstance(raised.value.__cause__, RuntimeError)


class Unreadable:
    """A data set without a readable sample."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        with phase('reading sample 0 of `a.png`', 'Remove it'):
            raise OSError('truncated image')


@pytest.mark.parametrize('workers', [0, 1])
def test_a_problem_in_a_data_worker_is_the_same_as_in_the_process_itself(workers):
    with pytest.raises(ProblemError) as raised:
        list(DataLoader(Unreadable(), num_workers=workers))
    assert raised.value.what == 'reading sample 0 of `a.png`: truncated image' and raised.value.fix == 'Remove it'


@pytest.mark.parametrize('error, line', [
    (KeyError('no key `x` in it'), 'no key `x` in it'), (KeyError('x'), 'KeyError: x'),
    (AssertionError(), 'AssertionError'),
    (FileNotFoundError(2, 'No such file or directory', 'x.png'), 'No such file or directory: `x.png`'),
    (ValueError('a  b\n c'), 'a b c'), (ValueError('long ' * 200), ('long ' * 80)[:397] + '...'),
    (OSError('Caught OSError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n  File ...\n'
             'OSError: no such file: x.jpg\n'), 'no such file: x.jpg')])
def test_an_exception_is_told_in_one_line(error, line):
    assert one_line(error) == line


def test_the_closest_choices_begin_a_fix():
    assert closest('SGGD', ['SGD', 'Adam']) == 'Did you mean `SGD`? ' and closest('x', ['SGD']) == ''


@pytest.mark.parametrize('fix, said', [('', 'Give this user'), ('Run again with --traceback', 'Give this user'),
                                       ('Name another folder', 'Name another folder')])
def test_a_permission_that_is_missing_has_a_way_out(fix, said):
    with pytest.raises(ProblemError) as caught, phase('reading', fix):
        raise PermissionError(13, 'Permission denied', 'a.png')
    assert caught.value.what == 'reading: Permission denied: `a.png`' and caught.value.fix.startswith(said)
