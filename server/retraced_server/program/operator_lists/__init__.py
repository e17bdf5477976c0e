"""The closed lists of operators that programs may hold wherever a server runs: one file a torch version, with a name a line as torch prints it.

`python -m tools.operator_list` makes the list of the torch that is installed, by rules that stand there, less what `unlisted` names with
reasons.
"""

from __future__ import annotations

import functools
from importlib import resources
from typing import Final

import torch

LIST_NAME: Final = f"torch_{'_'.join(str(torch.__version__).split('.')[:2])}.txt"
"""The file of the torch that is installed."""


@functools.cache
def listed_operators() -> frozenset[str]:
    """Return the names of the operators on the list, such as `aten.add.Tensor`.

    Raises:
        ImportError: There is no list for the torch that is installed.
    """
    try:
        text = resources.files(__name__).joinpath(LIST_NAME).read_text()
    except FileNotFoundError as error:
        raise ImportError(
            f"no list of operators for torch {torch.__version__}: make {LIST_NAME} with `python -m tools.operator_list`"
        ) from error
    return frozenset(text.split())
