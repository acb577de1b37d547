"""``mmrev test`` in other processes: metrics, drawn images, predictions, augmentation, two processes, inference."""
import json
import pickle
import sys

import cv2
import numpy as np
import pytest

from support.commands import ROOT, printed, succeed

pytestmark = pytest.mark.subprocess


def metrics(folder):
    """What a test run wrote down."""
    file, = folder.glob('2*/2*.json')
    # All processes write this file (mmengine's LoggerHook): behind a shorter text the end of a longer one may stand.
    found, _ = json.JSONDecoder().raw_decode(file.read_text())
    return {key: value for key, value in found.items() if key.startswith('coco/')}


@pytest.fixture(scope='module')
def tested(toy, tmp_path_factory):
    """A folder in which one process tested the toy, drew into ``drawn`` and wrote ``out.pkl``; and what it printed."""
    folder = tmp_path_factory.mktemp('tested')
    output = printed('test', toy.config, toy.run / 'epoch_2.pth', '--work-dir', 'one', '--show-dir', 'drawn', '--out',
                     'out.pkl', cwd=folder)
    return folder, output


def predictions(file):
    """The scores and boxes of every image."""
    instances = [sample['pred_instances'] for sample in pickle.loads(file.read_bytes())]
    return [np.c_[found['scores'], found['bboxes']] for found in instances]


def test_the_last_line_says_where_images_and_predictions_are(toy, tested):
    folder, output = tested
    drawn, = (folder / 'one').glob('2*/drawn')
    assert f'images: {drawn.relative_to(folder)}' in output.splitlines()[-1]
    assert 'predictions: out.pkl' in output.splitlines()[-1]
    assert sorted(path.name for path in drawn.iterdir()) == ['0.png', '1.png', '2.png', '3.png']
    original, painted = (cv2.imread(str(images / '0.png')) for images in (toy.folder / 'data/images', drawn))
    assert painted.shape == (64, 128, 3)  # the annotation on the left, the prediction on the right
    assert (painted[:, :64] != original).any()
    assert len(predictions(folder / 'out.pkl')) == 4


def test_two_processes_measure_what_one_does(toy, tested, tmp_path):
    succeed(ROOT / 'tools/dist_test.sh', toy.config, toy.run / 'epoch_2.pth', 2, '--work-dir', 'two', '--out',
            'out.pkl', cwd=tmp_path)
    one, two = metrics(tested[0] / 'one'), metrics(tmp_path / 'two')
    assert one == two and one['coco/bbox_mAP'] >= 0
    for here, there in zip(predictions(tested[0] / 'out.pkl'), predictions(tmp_path / 'out.pkl'), strict=True):
        np.testing.assert_allclose(here, there, atol=1e-4)


def test_augmentation_at_test_time_changes_the_predictions(toy, tested, tmp_path):
    printed('test', toy.config, toy.run / 'epoch_2.pth', '--out', 'out.pkl', '--tta', cwd=tmp_path)
    plain, augmented = predictions(tested[0] / 'out.pkl'), predictions(tmp_path / 'out.pkl')
    assert len(augmented) == 4 and all(len(found) for found in augmented)
    assert plain[0].shape != augmented[0].shape or not np.allclose(plain[0], augmented[0])


def test_inference_of_mmdet_loads_the_checkpoint_after_importing_mmrev(toy):
    code = ('import mmrev\nfrom mmdet.apis import DetInferencer, inference_detector, init_detector\n'
            'config, checkpoint, image = "toy.py", "run/epoch_2.pth", "data/images/0.png"\n'
            'one = DetInferencer(config, checkpoint, device="cpu")(image)["predictions"][0]["scores"]\n'
            'two = inference_detector(init_detector(config, checkpoint, device="cpu"), image).pred_instances.scores\n'
            'assert len(one) == len(two) > 0 and abs(one[0] - float(two[0])) < 1e-6, (one, two)')
    succeed(sys.executable, '-c', code, cwd=toy.folder)
