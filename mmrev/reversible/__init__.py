"""The engine: reversible networks as lists of additive steps. Requires only PyTorch."""
from .check import ReconstructionReport, StepError, check_reconstruction
from .coupling import Coupling, NewStream, RevSilo, TwoStreamCoupling
from .errors import ReversibilityError
from .keep import Keep
from .sequence import ReversibleSequence
from .step import AdditiveStep, unread
from .streams import StreamPart

__all__ = [
    'AdditiveStep', 'Coupling', 'Keep', 'NewStream', 'ReconstructionReport', 'ReversibilityError', 'ReversibleSequence',
    'RevSilo', 'StepError', 'StreamPart', 'TwoStreamCoupling', 'check_reconstruction', 'unread'
]
