"""``mmrev predict`` in other processes: detectors and classifiers, files and folders, pictures and values."""
import json
import pickle
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from support.commands import forked, printed

pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.registry import MODELS, DefaultScope  # noqa: E402

from mmrev.apis.predict import predict  # noqa: E402
from mmrev.problems import ProblemError  # noqa: E402

pytestmark = pytest.mark.subprocess

CONFIGS = Path(__file__).parents[2] / 'configs'
pytestmark = pytest.mark.subprocess


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
    """A digits classifier with random weights, its checkpoint, and a folder of images in folders."""
    folder = tmp_path_factory.mktemp('classifier')
    config = CONFIGS / 'revvit/revvit_digits.py'
    cfg = Config.fromfile(config)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(
        classes=tuple('zero one two three four five six seven eight nine'.split())))), folder / 'weights.pth')
    for index, name in enumerate(['a/0.png', 'b/0.png', 'b/deep/1.JPG']):
        path = folder / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(index).integers(0, 255, (40, 48, 3), dtype=np.uint8)
        assert cv2.imwrite(str(path), image)
    (folder / 'images/notes.txt').write_text('no image')
    return folder, config, folder / 'weights.pth'


@pytest.fixture(scope='module')
def detected(toy, tmp_path_factory):
    """The folder with what the toy detector found, and what the command printed."""
    folder = tmp_path_factory.mktemp('detected')
    output = printed('predict', toy.config, toy.run / 'epoch_2.pth', toy.folder / 'data/images', '--out-dir', 'drawn',
                     '--score', '0.001', cwd=folder)
    return folder / 'drawn', output


def test_a_detector_draws_what_it_finds(toy, detected):
    folder, output = detected
    assert all(f'images/{index}.png: ' in output for index in range(4)) and 'drawn' in output.splitlines()[-1]
    found = json.loads((folder / 'predictions.json').read_text())
    assert sorted(found) == ['0.png', '1.png', '2.png', '3.png']
    for name, values in found.items():
        assert set(values['classes']) <= {'dark', 'bright'}
        assert len(values['bboxes']) == len(values['scores']) == len(values['classes']) > 0
        original, drawn = (cv2.imread(str(place / name)) for place in (toy.folder / 'data/images', folder))
        assert drawn.shape == original.shape and (drawn != original).any()


def test_weights_without_meta_take_the_classes_of_the_config(toy, detected, tmp_path):
    weights = torch.load(toy.run / 'epoch_2.pth', weights_only=False)['state_dict']
    torch.save(dict(state_dict=weights), tmp_path / 'weights.pth')
    printed('predict', toy.config, 'weights.pth', toy.folder / 'data/images', '--out-dir', 'drawn', '--score', '0.001',
            cwd=tmp_path)
    found = [json.loads((folder / 'predictions.json').read_text()) for folder in (detected[0], tmp_path / 'drawn')]
    assert [values['classes'] for values in found[0].values()] == [values['classes'] for values in found[1].values()]


def test_a_detector_finds_what_mmrev_test_finds(toy, detected, tmp_path):
    printed('test', toy.config, toy.run / 'epoch_2.pth', '--out', 'out.pkl', cwd=tmp_path)
    tested = pickle.loads((tmp_path / 'out.pkl').read_bytes())
    found = json.loads((detected[0] / 'predictions.json').read_text())
    assert len(tested) == len(found) == 4
    for sample in tested:
        values = found[Path(sample['img_path']).name]
        np.testing.assert_allclose(values['scores'], sample['pred_instances']['scores'], atol=1e-5)
        np.testing.assert_allclose(values['bboxes'], sample['pred_instances']['bboxes'], atol=1e-3)


def test_a_classifier_names_the_class_of_each_image_in_folders_at_any_depth(classifier, tmp_path):
    folder, config, weights = classifier
    output = printed('predict', config, weights, folder / 'images', '--out-dir', 'drawn', cwd=tmp_path)
    found = json.loads((tmp_path / 'drawn/predictions.json').read_text())
    assert sorted(found) == ['a/0.png', 'b/0.png', 'b/deep/1.JPG']
    for name, values in found.items():
        assert f'{name}: {values["pred_class"]} {values["pred_score"]:.2f}' in output
        assert np.argmax(values['pred_scores']) == values['pred_label'] and abs(sum(values['pred_scores']) - 1) < 1e-4
        original, drawn = (cv2.imread(str(place / name)) for place in (folder / 'images', tmp_path / 'drawn'))
        assert drawn.shape == original.shape and (drawn != original).any()


def test_a_published_checkpoint_predicts_the_same(classifier, tmp_path, capsys):
    from mmrev.cli import main
    folder, config, weights = classifier
    assert main(['publish', str(weights), '--out', str(tmp_path / 'small.pth')]) == 0
    published, = tmp_path.glob('small-*.pth')
    outputs = [printed('predict', config, file, folder / 'images/a/0.png', cwd=tmp_path).splitlines()[-1]
               for file in (weights, published)]
    assert outputs[0] == outputs[1] and 'a/0.png: ' in outputs[0]


def test_what_cannot_be_predicted_is_named(classifier, toy, tmp_path):
    folder, config, weights = classifier
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    shutil.copy(folder / 'images/a/0.png', tmp_path / '0.png')
    for inputs, status, reason in [
            (['empty'], 2, 'there is no image in empty'), (['nowhere'], 2, '`nowhere` does not exist'),
            (['broken.png'], 2, '1 of 1 images cannot be read or predicted: `broken.png`'),
            (['0.png', folder / 'images/b/0.png'], 2, 'would be drawn to the same file'),
            (['0.png', '--out-dir', '.'], 2, '`0.png` is one of the images, and would be overwritten')]:
        ended, errors = forked('predict', config, weights, *inputs, cwd=tmp_path)
        assert ended == status and reason in errors, errors
    ended, errors = forked('predict', config, toy.run / 'epoch_2.pth', '0.png', cwd=tmp_path)
    assert ended == 2 and 'of another model' in errors, errors
    ended, errors = forked('predict', toy.config, weights, '0.png', cwd=tmp_path)
    assert ended == 2 and 'of another model' in errors, errors


@pytest.mark.parametrize('numbers, message', [
    (dict(score=float('nan')), 'the score is nan'), (dict(score=2.), 'the score is 2.0'),
    (dict(scales=[1., 0.]), 'a scale is 0.0'), (dict(scales=[float('inf')]), 'a scale is inf')])
def test_numbers_out_of_their_range_are_refused_before_anything_is_read(numbers, message):
    with pytest.raises(ProblemError, match=message):
        next(predict(Config(), 'nowhere.pth', ['nowhere'], **numbers))


def test_a_conversion_that_changes_the_function_is_made_before_predicting(tmp_path):
    from mmrev.apis.predict import _convert_norms
    from mmrev.layers import InPlaceABN
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.ReLU())
    hook = dict(type='mmrev.InPlaceABNHook', relu='leaky')
    _convert_norms(model, Config(dict(custom_hooks=[dict(type='EMAHook'), hook])))
    assert any(isinstance(module, InPlaceABN) for module in model)
