# SPDX-License-Identifier: Apache-2.0
"""How kernels are compiled."""

from __future__ import annotations

from typing import Any

from numba import njit

_njit: Any = njit  # its stubs do not know the options below

entry: Any = _njit(cache=True, _nrt=False)
"""Decorator of a kernel that Python calls.

Without Numba's reference counts (`_nrt`): a kernel allocates nothing, and counting references to
every array of a state tuple in every call costs more than the work itself.
"""

inner: Any = _njit(_nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)
"""Decorator of a function that only kernels call.

It is compiled into its callers and cached with them, always inlined: a call would copy every field
of the state tuples, hundreds of words, and hide from the optimiser what the caller knows. A wrapper
that turns Python objects into state tuples would take longer to compile than the function.
"""

_outlined: Any = _njit(_nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def outlined(function: Any) -> Any:
    """Return a stage that is too large to be one function with its caller; only kernels call it.

    Compiled once, not into each caller: optimising one function takes more than linear time. It
    costs speed, see `inner`. `function` may be an `inner` kernel of another model.
    """
    # A kernel is a plain function where Numba is switched off.
    return _outlined(getattr(function, "py_func", function))
