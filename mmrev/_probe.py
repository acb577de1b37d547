"""Import modules one by one and print what is found: the part of `mmrev doctor` that may crash.

This file runs in a separate process. Its arguments are the parent's search path and the modules to import, as JSON.
Each module gives one line of JSON as soon as it has been probed, so a module that kills the process is the first one
without a line. The file itself imports nothing but the standard library.
"""
import importlib
import json
import os
import sys
import warnings


def torch_facts(torch):
    """Builds and devices of torch, and whether torch and NumPy are compatible."""
    facts = {'cuda_build': torch.version.cuda, 'cuda': torch.cuda.is_available(), 'devices': []}
    if facts['cuda']:
        facts['devices'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    backends = getattr(torch, 'backends', None)
    if hasattr(backends, 'mps') and backends.mps.is_available():
        facts['devices'].append('mps')
    try:
        torch.zeros(1).numpy()
    except Exception as error:
        facts['numpy_error'] = describe(error)
    return facts


def torchvision_facts(torchvision):
    """Whether its operators were compiled for this torch."""
    import torch
    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    return {}


def mmcv_ops_facts(ops):
    """Whether an op runs, for which CUDA version the ops were compiled, and whether they run on each GPU."""
    import torch
    boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
    ops.nms(boxes, scores, 0.5)
    facts = {'cuda_ops': ops.get_compiling_cuda_version()}
    if torch.cuda.is_available() and facts['cuda_ops'][:1].isdigit():
        for i in range(torch.cuda.device_count()):
            try:
                kept = ops.nms(boxes.to(f'cuda:{i}'), scores.to(f'cuda:{i}'), 0.5)
                torch.cuda.synchronize(i)
                del kept
            except Exception as error:
                facts['cuda_error'] = f'{torch.cuda.get_device_name(i)}: {describe(error)}'
                break
    return facts


FACTS = {'torch': torch_facts, 'torchvision': torchvision_facts, 'mmcv.ops': mmcv_ops_facts}


def describe(error):
    """An exception in one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def probe(name):
    """Import one module; return its version, file and facts, or the error."""
    found = {'module': name}
    try:
        module = importlib.import_module(name)
        found['version'] = getattr(module, '__version__', '')
        found['file'] = getattr(module, '__file__', None) or ''
        found.update(FACTS.get(name, lambda _: {})(module))
    except (Exception, SystemExit) as error:  # a broken package may raise anything
        found['error'] = describe(error)
        missing = isinstance(error, ModuleNotFoundError) and error.name == name.split('.')[0]
        found['missing'] = missing
    return found


def run(search_path, names):
    """Probe all modules, printing one line of JSON each; what they print themselves goes to standard error."""
    sys.path[:] = search_path
    warnings.simplefilter('ignore')
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for name in names:
        print(json.dumps(probe(name)), file=answers, flush=True)


if __name__ == '__main__':
    run(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
