"""Checks of built data sets and of their samples: files, classes, labels, masks."""
import inspect
import os
import os.path as osp
import pickle
import re
import time
from collections import Counter
from typing import Any, Dict, Iterable, Iterator, Optional, Sequence, Set, Tuple

import mmcv
import torch
from mmengine.structures import InstanceData
from PIL import Image

from mmrev.problems import Problem, ProblemError, phase

_SECONDS = 1.  # for which the files of a data set are looked at
_NO_CLASS = ('.', '__MACOSX')  # beginnings of names of folders that systems make
_GEOMETRY = re.compile('Resize|Crop|Flip|Rotate|Affine|Shear|Translate|^Expand$|^Pad$')


def check_folders(name: str, dataset: Any) -> None:
    """Require that the folders of classes are visible, and that each with files, in training each, has an image."""
    for inner in [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]:
        if inner is not None:
            check_folders(name, inner)
    for folder in getattr(dataset, 'folder_to_idx', None) or ():
        if folder.startswith(_NO_CLASS):
            raise ProblemError(*_no_class(folder, dataset.img_prefix, f'{name}_dataloader'))
        place = osp.join(dataset.img_prefix, folder)
        other = ''
        for file in (file for _, _, files in os.walk(place, followlinks=True) for file in files):
            if dataset.is_valid_file(file):
                break
            other = other or file
        else:
            if other:
                raise ProblemError(f'the class `{folder}` of {name}_dataloader has files, such as '
                                   f'`{osp.join(place, other)}`, but no image', 'Names of images end in '
                                   f'{", ".join(sorted(dataset.extensions))}: rename them, or set '
                                   f'{name}_dataloader.dataset.extensions')
            if name == 'train':
                raise ProblemError(f'the class `{folder}` of {name}_dataloader has no image',
                                   f'Put its images into `{place}`, or delete the folder here and in the other data '
                                   'sets')


def _no_class(name: str, folder: str, path: str) -> Tuple[str, str]:
    return (f'{path} has the folder `{name}`, which would be a class of its own',
            f'Delete `{osp.join(folder, name)}`: each folder there is a class')


def problems_of_list(built: Any, entry: Dict[str, Any], path: str, file: str) -> Iterator[Problem]:
    """A list of images and labels that mmpretrain cannot read: its first wrong line.

    Args:
        built: Class of the data set.
        entry: Its config.
        path: Path of its config, for the message.
        file: The list.
    """
    if (getattr(getattr(built, 'load_data_list', None), '__qualname__', '') != 'CustomDataset.load_data_list' or
            entry.get('with_label', True) is not True or not osp.isfile(file)):
        return
    place, what = f'`{file}` ({path}.ann_file)', ''
    with open(file, errors='replace') as lines:
        number = 0
        for number, line in enumerate(lines, 1):
            if not re.fullmatch(r'.*\S.* [-+]?\d+', line.strip()):
                what = f'line {number} of {place} is `{line.strip()[:80]}`'
                break
    if what or not number:
        yield Problem(what or f'{place} is empty', 'Each line is the name of an image, a space, and the number of its '
                      'class, from 0')


# What pickles of plain values name.
_OF_NUMPY = ('_reconstruct', 'ndarray', 'dtype', 'scalar', '_frombuffer')
_OF_PYTHON = ('collections.OrderedDict', 'collections.defaultdict', '_codecs.encode', *(
    f'builtins.{name}' for name in ('set', 'frozenset', 'list', 'dict', 'int', 'bytearray')))


_OF_PROPOSALS = (f'{InstanceData.__module__}.InstanceData', )  # with arrays; of mmdet's DumpProposals


class _PlainUnpickler(pickle.Unpickler):
    """Reads values of Python and NumPy's arrays; runs nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        known = f'{module.replace("__builtin__", "builtins")}.{name}'  # as protocol 2 calls it
        if not (module.split('.')[0] == 'numpy' and name in _OF_NUMPY or known in _OF_PYTHON + _OF_PROPOSALS):
            raise pickle.UnpicklingError(f'it would run `{module}.{name}`')
        return super().find_class(module, name)


def require_plain(file: str, path: str) -> None:
    """Require that a pickled file of annotations or proposals runs no code when mmengine reads it.

    Args:
        file: Its path.
        path: Where the config names it, for the message.
    """
    if file.endswith(('.pkl', '.pickle')) and osp.isfile(file):
        with open(file, 'rb') as stream, phase(f'reading `{file}` ({path})', 'Take a file of lists, dicts, '
                                               'numbers, texts and NumPy arrays'):
            _PlainUnpickler(stream).load()


def problems_of_folders(built: Any, entry: Dict[str, Any], path: str) -> Iterator[Problem]:
    """Hidden folders of classes; folders for segmentation without a file with the suffix of images or of masks.

    Args:
        built: Class of the data set.
        entry: Its config.
        path: Path of its config, for the message.
    """
    prefixes = entry.get('data_prefix')
    counts = hasattr(built, '_find_samples') and not entry.get('ann_file')  # a data set of mmpretrain
    if counts and entry.get('with_label', True):
        folder = prefixes.get('img_path', '') if isinstance(prefixes, dict) else prefixes or ''
        folder = osp.join(entry.get('data_root') or '', folder) if isinstance(folder, str) else ''
        for name in sorted(os.listdir(folder)) if osp.isdir(folder) else ():
            if name.startswith(_NO_CLASS) and osp.isdir(osp.join(folder, name)):
                yield Problem(*_no_class(name, folder, path))
    for key, prefix in (('img_suffix', 'img_path'), ('seg_map_suffix', 'seg_map_path')):
        defaults = [inspect.signature(base.__init__).parameters[key].default for base in getattr(built, '__mro__', ())
                    if key in inspect.signature(base.__init__).parameters]
        suffix = entry.get(key, defaults[0] if defaults else None)
        folder = prefixes.get(prefix) if isinstance(prefixes, dict) else None
        if not defaults or not isinstance(suffix, str) or not isinstance(folder, str):
            continue
        folder = osp.join(entry.get('data_root') or '', folder)
        names: Iterable[str] = (name for _, _, files in os.walk(folder, followlinks=True) for name in files)
        if osp.isdir(folder):
            found = set()
            for name in names:
                if name.endswith(suffix):
                    break
                found.add(osp.splitext(name)[1])
            else:
                there = ', '.join(f'`{end}`' for end in sorted(found)[:5]) or 'no files'
                yield Problem(f'no file in `{folder}` ends in `{suffix}` ({path}.{key})', f'There are {there}: set '
                              f'{path}.{key}, or {path}.data_prefix.{prefix}')


def check_files(name: str, dataset: Any, seconds: float = _SECONDS) -> None:
    """Require that images and masks which exist are regular files, and that a mask has the size of its image.

    Reading a pipe would wait forever, OpenCV decodes a JPEG that was cut, and a pipeline resizes a mask together with
    its image whatever their sizes are.

    Args:
        name: Split of the data set, for the message.
        dataset: The data set.
        seconds: Time after which the other samples are left out.
    """
    begin = time.monotonic()
    for index in range(len(dataset) if hasattr(dataset, 'get_data_info') else 0):
        info = dataset.get_data_info(index)
        image, mask = (info.get(key) if isinstance(info.get(key), str) else '' for key in ('img_path', 'seg_map_path'))
        for file in (image, mask):
            if osp.exists(file) and not osp.isfile(file):
                raise ProblemError(f'reading sample {index} of {name}_dataloader: `{file}` is no regular file',
                                   'Fix or remove that sample')
            if osp.isfile(file) and _is_cut(file):
                raise ProblemError(f'reading sample {index} of {name}_dataloader: `{file}` is a JPEG without its end, '
                                   'which OpenCV would fill with gray', 'Copy it again, or remove that sample')
        if osp.isfile(mask) and osp.isfile(image):
            sides, own = _size(image), _size(mask)
            if None not in (sides, own) and sorted(sides) != sorted(own):  # an image may be turned by its EXIF data
                raise _misfit(f'sample {index} of {name}_dataloader', mask, own, sides)
        if time.monotonic() - begin > seconds:
            break


def check_apart(datasets: Dict[str, Any], most: int = 1000) -> None:
    """Require that no image is a mask, as if its folder had been named twice; of each data set, `most` are compared."""
    files = {name: [dataset.get_data_info(index) for index in range(min(len(dataset), most))]
             for name, dataset in datasets.items() if hasattr(dataset, 'get_data_info')}
    masks = {info.get('seg_map_path') for infos in files.values() for info in infos} - {None}
    for name, infos in files.items():
        both = [info['img_path'] for info in infos if info.get('img_path') in masks]
        if both:
            raise ProblemError(f'`{both[0]}` is an image of {name}_dataloader, and a mask as well',
                               f'Fix {name}_dataloader.dataset.data_prefix: img_path and seg_map_path')


def _is_cut(file: str) -> bool:
    """Whether a file is a JPEG without an end in its second half; that of a thumbnail is in the first."""
    with open(file, 'rb') as stream:
        if stream.read(2) != b'\xff\xd8':
            return False
        stream.seek(osp.getsize(file) // 2)
        return b'\xff\xd9' not in stream.read()


def _size(file: str) -> Optional[Tuple[int, int]]:
    """Width and height from the head of a file, or None if Pillow cannot read it."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # nothing is decoded
    try:
        with Image.open(file) as image:
            return image.size
    except Exception:  # any of Pillow's; reading the sample says what is wrong
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = most


def why_unreadable(file: str) -> str:
    """Why no image library can decode a file, as far as its size and its first bytes tell."""
    if not osp.isfile(file):
        return 'it is no regular file' if osp.exists(file) else 'it does not exist'
    try:
        with open(file, 'rb') as stream:
            begin = stream.read(16)
    except OSError as error:
        return str(error.strerror)
    width, height = _size(file) or (0, 0)
    if width * height > 2 ** 30:  # the limit of OpenCV
        return f'its header claims {width}x{height} pixels'
    return 'it is empty' if not begin else 'it is truncated or damaged' if width else f'it begins with {begin!r}'


def is_image(file: str) -> bool:
    """Whether mmcv or Pillow can decode a file; from a device one would read without an end."""
    if osp.exists(file) and not osp.isfile(file):
        return False
    try:
        if mmcv.imread(file, 'unchanged') is not None:
            return True
        with Image.open(file) as image:
            image.load()
    except Exception:  # of any image library
        return False
    return True


def _misfit(where: str, mask: str, own: Sequence[int], sides: Sequence[int]) -> ProblemError:
    """For a mask that has other sides than its image, each as (width, height)."""
    return ProblemError(f'{where}: the mask `{mask}` has {own[0]}x{own[1]} pixels, and its image {sides[0]}x{sides[1]}',
                        'Give the mask the size of its image, pixel by pixel')


def check_order(name: str, transforms: Sequence[Any]) -> None:
    """Require that a pipeline resizes an image after loading it, in training its annotations too, and packs last."""
    steps = [type(step).__name__ for step in transforms]
    packs = next((i for i, step in enumerate(steps) if re.match('Pack', step)), len(steps))
    late = next((step for step in steps[packs:] if _GEOMETRY.search(step)), '')
    if late:
        raise ProblemError(f'the pipeline of {name}_dataloader has {late} behind {steps[packs]}, and would not change '
                           'the image', f'Move {late} before {steps[packs]}')
    loads = {kind: next((i for i, step in enumerate(steps) if re.match(f'Load{kind}', step)), None)
             for kind in (r'\w*Image', 'Annotations')}
    for kind, place in loads.items():
        early = next((step for step in steps[:place] if _GEOMETRY.search(step)), '') if place is not None else ''
        if early and (name == 'train' or kind != 'Annotations'):  # masks are compared in their own size
            raise ProblemError(f'the pipeline of {name}_dataloader has {early} before {steps[place]}, which it would '
                               'not change', f'Move {early} behind {steps[place]}')


def check_normalization(name: str, transforms: Sequence[Any], model: Any) -> None:
    """Require that a pipeline and the data preprocessor normalize images once."""
    preprocessor = getattr(model, 'data_preprocessor', None)
    places = ['Normalize of the pipeline' for step in transforms
              if re.fullmatch('Normalize', type(step).__name__) and _normalizes(step)]
    places += ['model.data_preprocessor'] * _normalizes(preprocessor)
    if len(places) > 1:
        raise ProblemError(f'images of {name}_dataloader would be normalized twice, by {" and ".join(places[:2])}',
                           'Leave out one of them')


def check_scale(name: str, sample: Any, model: Any) -> None:
    """Require that normalized values are not in the hundreds, as with mean and std of images from 0 to 1."""
    inputs = sample.get('inputs') if isinstance(sample, dict) else None
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not (isinstance(inputs, torch.Tensor) and inputs.dim() == 3 and inputs.numel() and _normalizes(preprocessor)):
        return
    mean, std = (getattr(preprocessor, key).cpu() for key in ('mean', 'std'))
    fit = mean.shape[0] in (1, inputs.shape[0])  # of others the preprocessor says so itself
    largest = ((inputs - mean) / std).abs().max() if fit else 0
    if largest > 500:
        raise ProblemError(f'images of {name}_dataloader, of values up to {inputs.max():g}, become {largest:g} with '
                           f'std={[round(number, 3) for number in std.flatten().tolist()]} of model.data_preprocessor',
                           'Give mean and std for values from 0 to 255')


def _normalizes(step: Any) -> bool:
    mean, std = (getattr(step, key, None) for key in ('mean', 'std'))
    return mean is not None and std is not None and bool(
        (torch.as_tensor(mean) != 0).any() or (torch.as_tensor(std) != 1).any())


def check_normalized_alike(pipelines: Dict[str, Sequence[Any]]) -> None:
    """Require that the pipelines of all splits normalize images alike."""
    steps = {name: [repr(step) for step in found if 'Normalize' in repr(step) or 'Albu' in repr(step)]
             for name, found in pipelines.items()}
    if len({*map(str, steps.values())}) > 1 and 'Albu' not in str(steps):
        raise ProblemError('images are normalized in different ways: ' + '; '.join(
            f'in {name}_dataloader by {", ".join(own) or "no step"}' for name, own in steps.items()),
            'Give all pipelines the same Normalize, or leave it to model.data_preprocessor')


def shifted_labels(name: str, dataset: Any, labels: Set[int]) -> str:
    """A warning where masks seem to number the background from 0 although their labels are shifted; or ''."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    if (not getattr(dataset, 'reduce_zero_label', False) or not labels or len(classes) - 1 in labels
            or str(classes[:1]).lower().strip("[(',)]") != 'background'
            or getattr(dataset, 'METAINFO', {}).get('classes') == classes):
        return ''
    return (f'no mask of {name}_dataloader that was read has the class `{classes[-1]}`: with reduce_zero_label=True, '
            'label 0 of the masks is ignored, and label 1 is the first class, `background`')


def check_classes(datasets: Dict[str, Any], model: Any = None) -> None:
    """Require that all data sets have the same unique classes in the same order, as many as a classifier's head.

    The head of a segmentor may have more, see :func:`unusual`.
    """
    model = getattr(model, 'module', model)
    wanted = getattr(getattr(model, 'head', None), 'num_classes', None)
    first: Tuple[str, Any] = ('', None)
    for name, dataset in datasets.items():
        classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
        if isinstance(classes, str):
            raise ProblemError(f'metainfo.classes of {name}_dataloader.dataset is the text `{classes}`, which is no '
                               'file', f"One class is metainfo=dict(classes=('{classes}', ))")
        if not isinstance(classes, (list, tuple)):
            continue
        check_folders(name, dataset)
        reduced = {split: one.reduce_zero_label for split, one in datasets.items() if hasattr(one, 'reduce_zero_label')}
        if len({*map(bool, reduced.values())}) > 1:
            raise ProblemError(f'reduce_zero_label differs: {reduced}', 'Set the same for each data set: where it is '
                               'True, label 1 of the masks is the first class')
        own = getattr(dataset, 'METAINFO', {}).get('classes') != classes  # ImageNet's has two cranes
        twice = [name for name, number in Counter(map(str, classes)).items() if number > 1]
        if own and twice:
            raise ProblemError(f'{name}_dataloader.dataset has the class `{twice[0]}` twice', 'Name each class once')
        if first[1] is not None and list(first[1]) != list(classes):
            here, there = ({*map(str, classes)} - {*map(str, first[1])}, {*map(str, first[1])} - {*map(str, classes)})
            which = [f'only {split} has {", ".join(sorted(only)[:3])}' for split, only in
                     ((name, here), (first[0], there)) if only] or [
                    'their types differ' if [*map(str, first[1])] == [*map(str, classes)] else 'their order differs']
            raise ProblemError(f'the classes of {first[0]}_dataloader and {name}_dataloader differ: {"; ".join(which)}',
                               'Their labels would not agree: add the missing folders, or set the same '
                               'metainfo=dict(classes=...) for both')
        if wanted not in (None, len(classes)):
            raise ProblemError(f'model.head has num_classes={wanted}, {name}_dataloader has {len(classes)} classes: '
                               f'{", ".join(map(str, classes[:3]))}{", ..." * (len(classes) > 3)}',
                               ('Add the missing folders, or set ' if len(classes) < wanted else 'Set ') +
                               f'model.head.num_classes={len(classes)}')
        most, unlabelled = _most_classes(getattr(model, 'decode_head', None)), getattr(dataset, 'reduce_zero_label', 0)
        if most is not None and most < len(classes) - bool(unlabelled):
            raise ProblemError(f'model.decode_head has num_classes={most}, {name}_dataloader has {len(classes)} '
                               'classes', f'Set model.decode_head.num_classes={len(classes)}')
        others = getattr(model, 'auxiliary_head', None)
        others = others if isinstance(others, torch.nn.ModuleList) else [others]
        if most is not None and most > len(classes) and len(classes) in map(_most_classes, others):
            raise ProblemError(f'model.decode_head has num_classes={most}; {name}_dataloader and model.auxiliary_head '
                               f'have {len(classes)} classes', f'Set model.decode_head.num_classes={len(classes)}')
        first = (name, classes)


def unusual(name: str, dataset: Any, model: Any) -> Iterator[str]:
    """What works, but is rarely meant: classes that never occur, training without the filters of the data set."""
    if name != 'train' or not hasattr(dataset, 'test_mode'):
        return
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    most = _most_classes(getattr(model, 'decode_head', None))
    if classes and most is not None and most > len(classes):
        yield (f'model.decode_head has num_classes={most}, and train_dataloader has {len(classes)} classes: the others '
               'never occur')
    ignored = getattr(getattr(model, 'decode_head', None), 'ignore_index', None)
    if most is not None and ignored in range(most):
        yield f'model.decode_head has ignore_index={ignored}, which is the number of a class: it is not trained'
    if dataset.test_mode:
        yield ('train_dataloader.dataset has test_mode=True: images without objects are not filtered, and samples that '
               'fail are not replaced')


def _most_classes(head: Any) -> Optional[int]:
    """The number of classes of a head; a binary one, with a single channel, has two."""
    number = getattr(head, 'num_classes', None)
    return (max(number, 2) if getattr(head, 'out_channels', None) == 1 else number) if type(number) is int else None


def check_labels(where: str, sample: Any, model: Any) -> None:
    """Require that the head of a classifier or segmentor has the labels of a sample."""
    truth = sample.get('data_samples') if isinstance(sample, dict) else None
    for field, part in (('gt_label', 'head'), ('gt_sem_seg', 'decode_head')):
        head, labels = getattr(model, part, None), getattr(getattr(truth, field, None), 'data', None)
        most = _most_classes(head)
        if most is None or not torch.is_tensor(labels):
            continue
        wrong = labels[(labels >= most) & (labels != getattr(head, 'ignore_index', -1))]
        if field == 'gt_label' and not len(wrong):
            wrong = labels[labels < 0]
        if len(wrong):
            file = truth.metainfo.get('seg_map_path') or truth.metainfo.get('img_path')
            raise ProblemError(f'{where} (`{file}`) has the label {int(wrong.max())}, and model.{part} has num_classes='
                               f'{head.num_classes}', 'Fix it; labels count from 0, and unlabelled pixels of a mask '
                               'are 255')


def check_mask(where: str, sample: Any, model: Any) -> Set[int]:
    """Require that a segmentor's mask has one channel and the size of its image; return the labels in it."""
    truth = sample.get('data_samples') if isinstance(sample, dict) else None
    labels = getattr(getattr(truth, 'gt_sem_seg', None), 'data', None)
    if not hasattr(model, 'decode_head') or not torch.is_tensor(labels):
        return set()
    # Before a validation the image is resized, and the mask is not.
    sizes = [tuple(sample['inputs'].shape[-2:]), tuple(truth.metainfo.get('ori_shape', ())[:2])]
    if labels.ndim != 3 or len(labels) != 1 or labels.shape[1:] not in sizes:
        raise ProblemError(f'{where}: the mask `{truth.metainfo.get("seg_map_path")}` has shape '
                           f'{tuple(labels.shape)}, and its image {" or ".join(map(str, sizes))}',
                           'Masks have one channel, which holds the numbers of the classes, and the size of the image')
    file, sides = str(truth.metainfo.get('seg_map_path')), sizes[1][::-1]
    own = _size(file) if osp.isfile(file) else None
    if own is not None and sides and own != sides:  # a pipeline has resized both
        raise _misfit(where, file, own, sides)
    if own is None:
        return set(labels.unique().tolist())
    with Image.open(file) as mask:
        lossy, most = mask.format == 'JPEG', mask.getextrema()[1] if mask.mode[0] in 'IF' else 0
    if lossy:
        raise ProblemError(f'{where}: the mask `{file}` is a JPEG image, whose compression changes the labels',
                           'Write the masks again as PNG')
    if most > 255:
        raise ProblemError(f'{where}: the mask `{file}` holds the number {most:g}', 'Labels of a mask are 0 to 255; '
                           'those above would wrap around')
    return set(labels.unique().tolist())


def check_boxes(info: Dict[str, Any], sample: Any) -> str:
    """Require that boxes lie in their image where it has another size than its annotation says.

    Args:
        info: What a data set says of the sample.
        sample: The sample.

    Returns:
        A warning if the boxes lie in the image nevertheless, or ''.

    Raises:
        ProblemError: If a box reaches beyond the image, such as one that was resized without its boxes.
    """
    stated = (info.get('height'), info.get('width'))
    shape = getattr(sample.get('data_samples') if isinstance(sample, dict) else None, 'ori_shape', None)
    if shape is None or None in stated or tuple(shape[:2]) == stated:
        return ''
    height, width = shape[:2]
    what = (f'`{info.get("img_path")}` has {width}x{height} pixels, and its annotation says {stated[1]}x{stated[0]}')
    for instance in info.get('instances') or ():
        box = instance.get('bbox')
        if isinstance(box, (list, tuple)) and len(box) == 4 and (box[2] > width + 1 or box[3] > height + 1):
            raise ProblemError(f'{what}; a box reaches to ({box[2]:g}, {box[3]:g})', 'Resize the boxes as the image '
                               'was resized, or put the original image back')
    if min(width / stated[1], height / stated[0]) > 1.5 and abs(width * stated[0] - height * stated[1]) < width:
        raise ProblemError(f'{what}: it was enlarged, and its boxes were not', 'Enlarge the boxes, or put the original '
                           'image back; if only `width` and `height` are wrong, fix them')
    return f'{what}: {"are they swapped?" if stated == (width, height) else "do its boxes fit?"}'


def without_objects(name: str, labels: Set[int], model: Any) -> str:
    """What is wrong with masks that hold these labels alone, such as 255 for objects, which is ignored; or ''."""
    head = getattr(model, 'decode_head', None)
    ignored = getattr(head, 'ignore_index', None)
    if not labels or not labels <= {0, ignored} or (_most_classes(head) or 2) < 2:
        return ''
    return (f'the masks of {name}_dataloader hold only the labels {sorted(labels)}'
            f'{f", and {ignored} is ignored" * (ignored in labels)}: the labels of objects are 1 and above')
