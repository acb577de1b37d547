"""A training whose loss is not finite ends with status 1, and its last finite checkpoint is kept."""
import pytest
import torch
from mmengine.hooks import Hook

from mmrev.hooks import FiniteLossHook, SafeCheckpointHook
from mmrev.problems import ProblemError
from support.runs import Regression, train_regression

KEPT = dict(checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=1))


class Spoil(Hook):
    """Makes the losses of some iterations, counted from 1, NaN, or the weights of all that follow."""

    def __init__(self, iterations, weights=False):
        self.iterations, self.weights = iterations, weights

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter + 1 in self.iterations:
            if self.weights:
                runner.model.body[0].weight.data.fill_(float('nan'))
            else:
                data_batch['inputs'] = data_batch['inputs'] * float('nan')


def train(work_dir, *hooks):
    """Three epochs of two iterations each."""
    train_regression(work_dir, 3, [SafeCheckpointHook(), *hooks], default_hooks=KEPT)


def test_a_patience_of_no_iteration_is_refused():
    with pytest.raises(ProblemError, match='`patience` of FiniteLossHook is -1'):
        FiniteLossHook(-1)


@pytest.mark.parametrize('patience, reason', [
    (2, '2 iterations in a row'), (20, 'a checkpoint would hold useless weights')
])
def test_it_stops_and_keeps_the_last_finite_checkpoint(tmp_path, patience, reason):
    with pytest.raises(ProblemError) as caught:
        train(tmp_path, FiniteLossHook(patience), Spoil([3], weights=True))
    assert caught.value.what == f'`loss` is nan since iteration 3: {reason}' and caught.value.status == 1
    assert [path.name for path in tmp_path.glob('*.pth*')] == ['epoch_1.pth']
    state = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)['state_dict']
    assert all(x.isfinite().all() for x in state.values())


def test_a_single_loss_that_is_not_finite_is_tolerated(tmp_path, monkeypatch):
    """Where the weights stay finite."""
    forward = Regression.forward

    def sometimes(self, inputs, mode='tensor'):
        found = forward(self, torch.nan_to_num(inputs), mode)
        return dict(loss=found['loss'] + 0 * inputs.sum().detach()) if mode == 'loss' else found

    monkeypatch.setattr(Regression, 'forward', sometimes)
    train(tmp_path, FiniteLossHook(2), Spoil([1, 3, 5]))
    assert (tmp_path / 'epoch_3.pth').exists()


def test_the_first_loss_that_is_not_finite_is_named():
    class Scalar:

        def __init__(self, value):
            self.current = lambda: value

    class Runner:
        iter = 6
        values = {'train/loss': float('nan'), 'train/loss_cls': 1., 'train/loss_bbox': float('inf')}

        class message_hub:  # noqa: N801
            get_scalar = staticmethod(lambda name: Scalar(Runner.values[name]))

    with pytest.raises(ProblemError, match='`loss_bbox` is inf since iteration 7: 1 iterations in a row'):
        FiniteLossHook(1).after_train_iter(Runner, 0, outputs=dict(loss=0, loss_cls=0, loss_bbox=0, acc=0))
