"""Predictions on images, drawn and as plain values, by the inferencers of mmdet, mmpretrain and mmseg."""
import json
import math
import os.path as osp
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from mmrev.checkpoints import load_any, mismatch
from mmrev.datasets.checks import is_image, why_unreadable
from mmrev.problems import ProblemError, one_line, phase
from mmrev.side_effects import show_warnings, standard_error_suppressed, try_writing, warnings_held

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from PIL.Image import Image
    from torch import nn

IMAGES = ('.bmp', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')  # read and written by OpenCV
# What follows the stem of an image's name in those of its maps, by format.
MAPS = {'palette': ['.png'], 'raw': ['.png'], 'prob': ['.png', '_prob.png']}


class Prediction(NamedTuple):
    """The prediction of a model on an image.

    Attributes:
        file: Path of the image.
        summary: Summary in a few words.
        values: Prediction as numbers, strings, lists and dicts.
        drawn: Image with the drawn prediction, RGB of shape (H, W, 3); None if there are ``maps``.
        maps: Images to write instead, by the suffixes of their names.
    """
    file: str
    summary: str
    values: Dict[str, Any]
    drawn: Optional['np.ndarray']
    maps: Dict[str, 'Image'] = {}

    def write(self, path: Path) -> None:
        """Write the drawn image to ``path``, or each map to a name that begins with it."""
        import mmcv
        for end, image in self.maps.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path.with_suffix('').with_name(path.stem + end))
        if self.drawn is not None:
            mmcv.imwrite(self.drawn[..., ::-1], str(path))


def predict(cfg: 'Config', checkpoint: str, inputs: Sequence[str], out_dir: Optional[str] = None,
            score: float = 0.3, task: Optional[str] = None, **segmentation: Any) -> Iterator[Prediction]:
    """Predict image by image. Images that cannot be read or predicted are named in a `ProblemError` after the last one.

    Args:
        cfg: Config of the model; its ``default_scope`` determines the task.
        checkpoint: Checkpoint of the model.
        inputs: Images, and folders of images at any depth.
        out_dir: Folder for ``predictions.json`` and the drawn images, which keep their names in the input folder.
        score: Boxes with a lower score are neither drawn nor counted.
        task: ``'detection'``, ``'classification'`` or ``'semseg'``; raise if the config is for another task.
        **segmentation: For a segmentor, see :class:`mmrev.apis.segmenter.Segmenter`.

    Raises:
        ProblemError: If there is no image, the config is for another task, the checkpoint is of another model, a number
            is out of its range, or the results cannot be written or would overwrite an image.
    """
    if not 0 <= score <= 1:
        raise ProblemError(f'the score is {score}', 'Choose --score from 0 to 1')
    for scale in segmentation.get('scales') or ():
        if not 0 < scale < math.inf:
            raise ProblemError(f'a scale is {scale}', 'Choose finite --scales above 0; 1 is the size of the config')
    scope = cfg.get('default_scope')
    if not isinstance(scope, str) or scope not in SCOPES:
        raise ProblemError(f'`default_scope` of the config is `{scope}`', f'Choose from {", ".join(SCOPES)}')
    if task not in (None, SCOPES[scope]):
        raise ProblemError(f'{cfg.filename} is for {SCOPES[scope]}, not for {task}', 'Give a config of that task')
    if segmentation and scope != 'mmseg':
        names = ', '.join(f'--{name.replace("_", "-")}' for name in segmentation)
        raise ProblemError(f'{cfg.filename} is for {SCOPES[scope]}, and {names} for semseg', 'Leave them out')
    images = find_images(inputs, MAPS.get(segmentation.get('out_format'), ()))
    given = {osp.realpath(file) for file, _ in images}  # of a circular link as well
    for name in [*(name for _, name in images), 'predictions.json'] if out_dir is not None else ():
        if osp.isdir(Path(out_dir, name)):
            raise ProblemError(f'`{Path(out_dir, name)}` is a folder', 'Name another folder with --out-dir')
    for _, name in images if out_dir is not None else ():
        if osp.realpath(Path(out_dir, name)) in given:
            raise ProblemError(f'`{Path(out_dir, name)}` is one of the images, and would be overwritten by a drawn one',
                               'Name another folder with --out-dir')
    load_any(checkpoint)  # raises if something is wrong with it
    if cfg.get('test_dataloader') is None:
        if cfg.get('val_dataloader') is None:
            raise ProblemError(f'{cfg.filename} has no `test_dataloader`, whose pipeline reads the images', 'Add it')
        cfg.test_dataloader = cfg.val_dataloader
    _check_parts(cfg)
    if out_dir is not None:
        with phase(f'writing to `{out_dir}`', 'Make it writable, or choose another folder'):
            try_writing(out_dir)
    with warnings_held():
        with phase('building the model', 'Give a config, and the checkpoint that was trained with it'):
            predict_one = _build(cfg, checkpoint, score, segmentation)
        found, unreadable, first = {}, [], ''
        for file, name in images:
            with phase(f'image `{file}`', 'Leave it out or fix it, or the pipeline of test_dataloader'):
                try:
                    if not file.is_file():
                        raise FileNotFoundError(file)  # reading a pipe would wait forever
                    with standard_error_suppressed():
                        prediction = Prediction(str(file), *predict_one(str(file)))
                except Exception as error:
                    with standard_error_suppressed():
                        readable = is_image(str(file))
                    if not found and readable:
                        raise  # it may be the same with every image
                    unreadable.append(f'`{file}`')
                    first = first or (one_line(error) if readable else why_unreadable(str(file)))
                    continue
            found[name.as_posix()] = prediction.values
            if out_dir is not None:
                with phase(f'writing to `{out_dir}`', 'Make it writable, or choose another folder', status=1):
                    prediction.write(Path(out_dir, name))
                    Path(out_dir, 'predictions.json').write_text(json.dumps(found, indent=1))
            show_warnings()
            yield prediction
        if unreadable:
            named = ', '.join(unreadable[:5]) + ', ...' * (len(unreadable) > 5)
            raise ProblemError(f'{len(unreadable)} of {len(images)} images cannot be read or predicted: {named}; '
                               f'of the first one, {first}', 'Fix them, or leave them out', 1 if found else 2)


def _check_parts(cfg: 'Config') -> None:
    """Require a model, and a pipeline that reads images."""
    dataset = cfg.test_dataloader
    while isinstance(dataset, dict) and 'dataset' in dataset:
        dataset = dataset['dataset']
    steps = dataset.get('pipeline') if isinstance(dataset, dict) else None
    for path, value, kind in (('model', cfg.get('model'), dict), ('test_dataloader.dataset.pipeline', steps, list)):
        if not isinstance(value, kind) or not value:
            raise ProblemError(f'`{path}` of {cfg.filename} is {value!r}'[:200], 'Give the config of the training')


def find_images(inputs: Sequence[str], ends: Sequence[str] = ()) -> List[Tuple[Path, Path]]:
    """Find images in files and folders; return each with its name in `out_dir`.

    Args:
        inputs: Files and folders.
        ends: What follows the stem in the names of the files that are written for an image; by default its suffix.

    Raises:
        ProblemError: If there is no image, an input does not exist, or two images have the same name.
    """
    images: Dict[Path, Path] = {}
    written: Dict[Path, Path] = {}
    for given in map(Path, inputs):
        if not osp.exists(given):  # nor does a name that is too long
            raise ProblemError(f'image or folder `{given}` does not exist', 'Paths are relative to this folder')
        folder, files = (given, sorted(given.rglob('*'))) if given.is_dir() else (given.parent, [given])
        for file in (file for file in files if file.suffix.lower() in IMAGES and not file.is_dir()):
            name = file.relative_to(folder)
            names = [name.with_name(name.stem + end) for end in ends] or [name]
            images[names[0]] = file
            for other in (written.setdefault(name, file) for name in names):
                if other != file:
                    raise ProblemError(f'`{other}` and `{file}` would be drawn to the same file',
                                       'Predict them in separate calls')
    if not images:
        raise ProblemError(f'there is no image in {", ".join(inputs)}', f'Names of images end in {", ".join(IMAGES)}')
    return [(file, name) for name, file in images.items()]


def _detector(cfg: 'Config', checkpoint: str, score: float) -> Callable[[str], tuple]:
    from .det_inferencer import DetInferencer
    inferencer = DetInferencer(cfg, checkpoint, show_progress=False)
    _convert_norms(inferencer.model, cfg)
    classes = inferencer.model.dataset_meta['classes']

    def predict_one(file: str) -> tuple:
        result = inferencer([file], return_vis=True, pred_score_thr=score)
        values, = result['predictions']
        values['classes'] = [classes[label] for label in values['labels']]
        counts = Counter(name for name, value in zip(values['classes'], values['scores']) if value >= score)
        return ', '.join(f'{count} {name}' for name, count in counts.items()) or 'nothing', values, *result[
            'visualization']

    return predict_one


def _classifier(cfg: 'Config', checkpoint: str, score: float) -> Callable[[str], tuple]:
    from mmcv.image import imread
    from mmengine.device import get_device
    from mmengine.runner import CheckpointLoader
    from mmpretrain import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer
    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device=get_device())
    other = mismatch(inferencer.model, CheckpointLoader.load_checkpoint(checkpoint, 'cpu'))
    if other:
        raise ValueError(f'the weights are of another model: {other}')
    _convert_norms(inferencer.model, cfg)
    visualizer = UniversalVisualizer()

    def predict_one(file: str) -> tuple:
        batch, = inferencer.preprocess([file])
        sample, = inferencer.forward(batch)
        values, = inferencer.postprocess([sample], [])
        values['pred_scores'] = values['pred_scores'].tolist()
        image = imread(file, channel_order='rgb')
        drawn = visualizer.visualize_cls(image, sample, classes=inferencer.classes, draw_gt=False)
        return f'{values.get("pred_class", values["pred_label"])} {values["pred_score"]:.2f}', values, drawn

    return predict_one


def _convert_norms(model: 'nn.Module', cfg: 'Config') -> None:
    """Do what `InPlaceABNHook` does before a test: with ``relu='leaky'`` the trained function is another."""
    from mmrev.surgery import convert_batchnorm
    for hook in cfg.get('custom_hooks') or ():
        if str(hook.get('type')).split('.')[-1] == 'InPlaceABNHook':
            convert_batchnorm(model, hook.get('relu'), hook.get('slope', 0.01))


def _build(cfg: 'Config', checkpoint: str, score: float, segmentation: Dict[str, Any]) -> Callable[[str], tuple]:
    """A function from a file to summary, values, drawn image and, of a segmentor, maps."""
    if cfg.default_scope == 'mmseg':
        from .segmenter import Segmenter
        segmenter = Segmenter(cfg, checkpoint, **segmentation)
        _convert_norms(segmenter.model, cfg)
        return segmenter
    return (_detector if cfg.default_scope == 'mmdet' else _classifier)(cfg, checkpoint, score)


SCOPES = dict(mmdet='detection', mmpretrain='classification', mmseg='semseg')  # tasks by `default_scope`
