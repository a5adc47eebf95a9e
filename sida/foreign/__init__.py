"""Read files from others without executing anything in them.

``read_pickle`` is the one way in: a pickle becomes plain Python values, numpy arrays, tensors as views of the file, and
inert stand-ins that hold a class's name and its state.
"""

from sida.errors import Refused
from sida.foreign.pickles import read_pickle
from sida.foreign.stand_ins import Inert, TensorView

__all__ = ["Inert", "Refused", "TensorView", "read_pickle"]
