"""Set before torch is imported, and inherited by every process that a test starts."""
import os

# The tests' operators are small: a second thread waits, spinning, for longer than it computes, and on a machine that
# does something else as well that made single tests ten times slower.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENCV_LOG_LEVEL', 'ERROR')  # as a command does before it imports OpenCV

import multiprocessing.util  # noqa: E402
import re  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
from functools import lru_cache  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from support.wheels import installed, source, wheel  # noqa: E402, F401 (fixtures)

# Fake tensors make torch count a GPU. Were this after them, the first backward would start a thread for it, and the
# forks of later tests could not run one.
torch.ones((), requires_grad=True).backward()

TORCH = tuple(int(number) for number in torch.__version__.split('.')[:2])

# What older versions of PyTorch lack: the tests that need it, whether the installed one has it, and what it is.
LACKING = [
    (r'test_export_and_trace|test_exports|a_trace_and_an_exported_program|as_the_table_says\[.*`(torch.export|dynamo=True)`|'
     r'runs\[(configs/parameter_free/README|docs/export)\.md-0', TORCH >= (2, 5),
     'torch.export of any module'),
    (r'test_save_memory|test_stock_networks|test_save_memory_hook|test_random_networks|'
     r'runs\[docs/memory\.md-1', TORCH >= (2, 5),
     'a way to ask which saved-tensor hooks are active, which save_memory needs'),
    (r'test_memory/test_(forecast|budget)|test_memory_predicts_what_a_real_step|is_named\[memory: |'
     r'of_a_page_run\[docs/(budget|segmentation)\.md',
     TORCH >= (2, 5), 'fake tensors that can be released early'),
    (r'is_taken_by_its_program\[python benchmarks/any_network\.py', TORCH >= (2, 5),
     'selective activation checkpointing'),
    (r'test_waits|test_on_a_gpu_|test_the_bias_is_contiguous|cuda:fake|_sanitizer_|the_generator_of_every_device',
     TORCH >= (2, 5), 'fake tensors on a GPU that is not there'),
    (r'test_a_compiled_training_step|\[compile\.backend|test_so_does_a_whole_compiled_step', TORCH >= (2, 5),
     'torch.compile of a whole training step of mmengine'),
    (r'test_a_checkpoint_of_batch_norms_within_a_function|test_notes.*(-checkpoint\]|computed_once)', TORCH >= (2, 5),
     'a way to ask which saved-tensor hooks are active, for checkpoints of batch norms within a function'),
    (r'test_a_loss_(stored_on_a_module_is_refused_by_name|on_a_function_s_own_input_is_refused)\[graph',
     hasattr(torch._C._autograd, '_get_current_graph_task_keep_graph'), 'a way to ask for a retained graph'),
    (r'test_a_compiled_network_trains_the_same|\[compiler\]', TORCH >= (2, 2), 'torch.compile of a cached function'),
    (r'test_second_backward_without_retained_graph|test_switch_keeps_every_activation',
     hasattr(torch._C._autograd, '_get_current_graph_task_keep_graph'),
     'a way to ask whether a backward retains the graph: the final streams are kept until the graph is freed'),
    (r'test_reading_leaves_torch_as_strict|cannot_reach_other_functions_by_the_name',
     TORCH >= (2, 6), 'torch.serialization.safe_globals'),
    (r'test_a_compiled_function_chooses_the_kernel_without_cudnn_too', TORCH >= (2, 6),
     'a compiler that can choose kernels of attention'),
    (r'a text for the learning rate', 'lr' in torch.optim.SGD.__init__.__annotations__,
     'types of the arguments of optimizers'),
    (r'test_the_logic_of_the_checks_runs_on_the_cpu', TORCH >= (2, 5), 'float16 under autocast on the CPU'),
    (r'test_a_reversible_backbone_is_as_near_to_float32', TORCH >= (2, 2), 'bfloat16 on the CPU that drifts as little'),
    (r'test_the_parts_of_the_peak|test_the_streams_are_found_among_the_parts', TORCH >= (2, 2),
     'one Python object per storage'),
    (r'of_a_transformer_on_the_meta_device|test_memory_rises_to_that_of_plain|'
     r'to_the_byte\[RevBiFPN-S0 backbone, checkpoint\]', TORCH >= (2, 3),
     'activation checkpointing and the fused attention of the CPU on the meta device'),
]
# Its benchmark needs selective activation checkpointing when it is imported.
collect_ignore = [] if TORCH >= (2, 5) else ['test_surgery/test_stock_networks.py']
# An operator for the CPU that came later; PyTorch names it.
LACKING_ON_CPU = re.compile("not implemented for 'Half'|AutocastCPU only support Bfloat16")


def pytest_collection_modifyitems(items):
    """Skip tests of what the installed PyTorch lacks; begin with the files that start processes, which take longest."""
    longest = {item.path for item in items if item.get_closest_marker('subprocess')}
    items.sort(key=lambda item: item.path not in longest)
    for pattern, has, what in LACKING:
        if not has:
            mark = pytest.mark.skip(reason=f'PyTorch {torch.__version__} lacks {what}')
            for item in items:
                if re.search(pattern, item.nodeid):
                    item.add_marker(mark)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip a test that met an operator which the installed PyTorch lacks on the CPU."""
    try:
        return (yield)
    except RuntimeError as error:
        if TORCH < (2, 5) and LACKING_ON_CPU.search(str(error)):
            pytest.skip(f'PyTorch {torch.__version__}: {error}')
        raise


@pytest.fixture(scope='session', autouse=True)
def find_a_config_of_a_host_once():
    """mmengine reads every metafile of mmdet or mmpretrain for each file that a config inherits from there: 0.1 s."""
    try:
        from mmengine.config import Config, utils
    except ImportError:
        yield
        return
    find = Config._get_cfg_path
    of_a_host = lru_cache(maxsize=None)(lambda name: find(name, ''))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', lru_cache(maxsize=None)(utils.load))
        patch.setattr(Config, '_get_cfg_path', staticmethod(
            lambda name, file: of_a_host(name) if '::' in name else find(name, file)))
        yield


@pytest.fixture(scope='session', autouse=True)
def runs_without_a_pretty_config():
    """A run formats its config seven times, 0.2 s each, and asks every compiler for its version.

    Runs within this process and its forks do neither; those of processes of their own do both.
    """
    try:
        import mmengine.config.config
        from mmengine.runner import Runner
        from yapf.yapflib import yapf_api
    except ImportError:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for module in (yapf_api, mmengine.config.config):  # OneDL's mmengine imports it when it formats
            patch.setattr(module, 'FormatCode', lambda text, **style: (text, True), raising=module is yapf_api)
        patch.setattr(Runner, '_log_env', lambda *args: None)
        yield


@pytest.fixture(scope='session', autouse=True)
def nothing_is_drawn_on_the_meta_device():
    """PyTorch draws nothing there by a program in Python, 4 ms for each weight of a network."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ('normal_', 'uniform_'):
            draw = getattr(torch.Tensor, name)
            patch.setattr(torch.Tensor, name, lambda self, *args, _draw=draw, **kwargs: (
                self if self.is_meta else _draw(self, *args, **kwargs)))
        yield


@pytest.fixture(autouse=True)
def algorithms_of_the_process():
    """A run with `deterministic=True` sets them for the whole process; restore them for other tests."""
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.backends.cudnn.deterministic = before[1]


@pytest.fixture(autouse=True)
def no_second_python_in_a_unit_test(request, monkeypatch):
    """Only what is marked `subprocess` may start Python, a script of ours, or a process of multiprocessing."""
    if request.node.get_closest_marker('subprocess'):
        return
    popen, spawn = subprocess.Popen.__init__, multiprocessing.util.spawnv_passfds

    def start(self, args, *rest, **kwargs):
        program = os.path.basename(str(args if isinstance(args, (str, os.PathLike)) else args[0]))
        assert not program.startswith('python') and not program.endswith('.sh'), f'mark this test `subprocess`: {args}'
        popen(self, args, *rest, **kwargs)

    def spawned(path, args, passfds):
        assert 'spawn_main' not in str(args), 'mark this test `subprocess`: it starts processes'
        return spawn(path, args, passfds)

    monkeypatch.setattr(subprocess.Popen, '__init__', start)
    monkeypatch.setattr(multiprocessing.util, 'spawnv_passfds', spawned)


@pytest.fixture(scope='module', autouse=True)
def no_scope_of_an_earlier_file():
    """mmengine looks for classes without a scope in that of the last runner, until another is built."""
    yield
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def no_logger_of_an_earlier_test():
    """mmengine's global logger would write to the captured stream of the test that made it, which is closed."""
    yield
    logging = sys.modules.get('mmengine.logging')
    if logging is not None:
        logging.MMLogger._instance_dict.clear()
