"""Read an untrusted checkpoint, find the weights in it, and compare them with a model."""
import argparse
import copy
import math
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, Optional, Sequence

from mmrev.problems import ProblemError, closest

from .safe import safe_globals

if TYPE_CHECKING:
    from torch import Tensor

# Keys under which trainers store the weights; timm's averaged ones first, as timm prefers them.
_PLACES = ('state_dict_ema', 'model_ema', 'state_dict', 'model', 'model_state', 'model_state_dict')
NEEDED_TO_RESUME = ('state_dict', 'meta', 'message_hub', 'optimizer')  # keys of a checkpoint of mmengine
# Keys of the states of an optimizer and of schedules under which numbers from 0 stand.
_FROM_ZERO = ('lr', 'initial_lr', 'weight_decay', 'momentum', 'eps', 'base_values', 'last_step', '_last_value')
_MANY = 10 ** 8  # iterations; more than any training has
_WRAPPERS = re.compile(r'^(?:module\.|_orig_mod\.)+')


def read(file: str, map_location: Any = None, trusted: Sequence[type] = (argparse.Namespace, ), mmap: bool = False
         ) -> Any:
    """Read tensors, plain Python values and the classes that mmengine saves, without running code.

    Args:
        file: Its path.
        map_location: See `torch.load`; the CPU by default.
        trusted: Further classes that the file may hold.
        mmap: Memory-map the file if the format allows it.

    Raises:
        ProblemError: If the file does not exist, cannot be read, is damaged, or holds anything else.
    """
    from mmrev.compat import load_weights_only
    path = Path(file)
    if not path.is_file():
        folder = path if path.is_dir() else path.absolute().parent
        there = sorted(one.name for one in folder.glob('*.pth') if one.is_file())
        what = 'is a folder' if path.is_dir() else 'is not a file' if path.exists() else 'does not exist'
        inside = f'Name a checkpoint in it: {", ".join(there[:5])}{", ..." * (len(there) > 5)}' * path.is_dir()
        raise ProblemError(f'checkpoint `{file}` {what}', inside * bool(there) or closest(path.name, there) or
                           'Checkpoints lie in the work dir of the training run')
    try:
        zipped = zipfile.is_zipfile(file)
        if zipped and zipfile.ZipFile(file).testzip():
            raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # warnings about the file repeat the error
            return load_weights_only(str(file), map_location or 'cpu', [*trusted, *_saved_by_mmengine()],
                                     mmap=mmap and zipped)
    except PermissionError as error:
        raise ProblemError(f'no permission to read checkpoint `{file}`', 'Change its permissions') from error
    except Exception as error:  # foreign bytes can raise anything
        unsafe = re.search(r'GLOBAL (\S+)', str(error))
        if unsafe:
            raise ProblemError(f'checkpoint `{file}` holds code, or objects that are not weights: {unsafe.group(1)}',
                               'It was not loaded. Take it from its publisher; if you trust it, name them to '
                               'torch.serialization.add_safe_globals in a module of custom_imports') from error
        raise ProblemError(f'checkpoint `{file}` ({path.stat().st_size:,} bytes) cannot be read: truncated, damaged '
                           'or no checkpoint', _way_out(path)) from error


def _way_out(path: Path) -> str:
    """What to give in place of a file that is no checkpoint."""
    if path.name == 'last_checkpoint':
        return f'It names one, `{path.read_text(errors="replace").strip()[:200]}`: give that'
    if path.suffix == '.safetensors':
        return 'Convert it with torch.save(safetensors.torch.load_file(FILE), "weights.pth")'
    return 'Copy it again, or take another one'


def _saved_by_mmengine() -> list:
    try:
        return safe_globals()
    except ImportError:  # without mmengine there are no checkpoints of mmengine
        return []


def not_resumable(checkpoint: Any) -> str:
    """What a run needs to go on from a checkpoint, and it lacks, or has in another form or not finite; may be empty."""
    content = checkpoint if isinstance(checkpoint, dict) else {}
    missing = [key for key in NEEDED_TO_RESUME if not isinstance(content.get(key), dict)]
    if not missing:
        missing = [f'meta.{key}' for key in ('epoch', 'iter')
                   if not isinstance(content['meta'].get(key), int) or not 0 <= content['meta'][key] < _MANY]
        missing += ['optimizer.state'] * (not content['optimizer'])
        missing += _not_finite(content['optimizer'], 'optimizer')
        for key in ('optimizer', 'param_schedulers'):
            missing += _below_zero(content.get(key), key)
    return ', '.join(f'`{key}`' for key in missing[:3])


def _not_finite(value: Any, path: str) -> Iterator[str]:
    """The paths of numbers and tensors at and below `path` that hold infinity or NaN."""
    import torch
    if isinstance(value, float) or isinstance(value, torch.Tensor) and value.is_floating_point():
        if isinstance(value, torch.Tensor) and _form(value) or not torch.as_tensor(value).isfinite().all():
            yield path
    for key, inner in value.items() if isinstance(value, dict) else (
            enumerate(value) if isinstance(value, (list, tuple)) else ()):
        yield from _not_finite(inner, f'{path}.{key}')


def _below_zero(value: Any, path: str, counts: bool = False) -> Iterator[str]:
    """The paths of rates, their decay and steps, at and below `path`, that are no number from 0."""
    if isinstance(value, (list, tuple)):
        value = dict(enumerate(value))
    if counts and not isinstance(value, dict) and not (_is_number(value) and 0 <= value < math.inf):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _below_zero(inner, f'{path}.{key}', counts or key in _FROM_ZERO)


def _is_number(value: Any) -> bool:
    import torch
    return isinstance(value, (int, float)) or (
        isinstance(value, torch.Tensor) and value.numel() == 1 and not _form(value))


def find_weights(content: Any, is_published_name: Callable[[str], bool]) -> Optional[Dict[str, 'Tensor']]:
    """Return the weights with published names in a checkpoint, or None.

    Args:
        content: A state dict, or a dict with one under a key that trainers use; averaged weights are preferred. State
            dicts by the names of parts, ``{'body': {...}, 'head': {...}}``, are joined.
        is_published_name: Whether a name is a published one.
    """
    if not isinstance(content, dict):
        return None
    for held in [*(content.get(place) for place in _PLACES), content]:
        if isinstance(held, dict) and all(isinstance(key, str) for key in held):
            if held and all(isinstance(part, dict) for part in held.values()):
                held = {f'{name}.{key}': value for name, part in held.items() for key, value in part.items()}
            weights = {_WRAPPERS.sub('', key): value for key, value in held.items()}
            if any(is_published_name(key) for key in weights):
                return weights
    return None


def holds_numbers(value: Any, parameter: 'Tensor') -> bool:
    """Whether a value is a dense tensor, and holds finite floating-point numbers if the parameter does."""
    import torch
    return isinstance(value, torch.Tensor) and not _form(value) and (
        value.is_floating_point() and bool(value.isfinite().all()) or not parameter.is_floating_point())


def no_numbers(file: str, name: str, value: Any) -> ProblemError:
    """The error about a value for which `holds_numbers` is false."""
    import torch
    return ProblemError(f'checkpoint `{file}` holds no real numbers for `{name}`, but {_kind(value)}',
                        'Save dense tensors, with their values' if isinstance(value, torch.Tensor) and _form(value)
                        else 'Use an earlier checkpoint')


def _kind(value: Any) -> str:
    import torch
    return type(value).__name__ if not isinstance(value, torch.Tensor) else _form(value) or (
        'NaN or infinity' if value.is_floating_point() else str(value.dtype))


def _form(value: 'Tensor') -> str:
    """What a tensor is if it is not a dense one with values: sparse, quantized, or of the meta device; or ''."""
    import torch
    if value.is_meta:
        return 'a tensor without values, of the meta device'
    return 'a quantized tensor' if value.is_quantized else (
        '' if value.layout == torch.strided else f'a tensor of layout {value.layout}')


def mismatch(model: Any, checkpoint: Dict[str, Any]) -> str:
    """Name the first weight of a model that a checkpoint lacks, has in another shape, or not as numbers; or ''.

    Names are adapted as the modules of the model do when they load a state dict.
    """
    state = checkpoint.get('state_dict', checkpoint)
    wrapped = hasattr(model, 'module')  # by test-time augmentation
    model = model.module if wrapped else model
    weights = {key.removeprefix('module.'): value for key, value in state.items() if isinstance(key, str)}
    probe = copy.deepcopy(model).to('meta')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # about copies to the meta device, which do nothing
            missing = set(probe.load_state_dict(weights, strict=False).missing_keys)
    except RuntimeError as error:
        found = re.search(r'size mismatch for (\S+): .*?Size\((.*?)\).*?Size\((.*?)\)', str(error))
        return '`%s` is of shape %s there, and of shape %s in this config' % found.groups() if found else str(error)
    other = next((name for name, value in model.state_dict().items()
                  if name in weights and not holds_numbers(weights[name], value)), None)
    if other:
        return f'`{other}` holds no real numbers there, but {_kind(weights[other])}'
    lost = next((name for name, _ in model.named_parameters() if name in missing), None)
    return f'`{lost}` is missing there' if lost else ''
