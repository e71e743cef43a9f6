# SPDX-License-Identifier: Apache-2.0
"""One handler per recorded operator, and a hint for some that have none."""

from __future__ import annotations

from algos.lib.builder import Handler
from algos.lib.handlers_elementwise import ELEMENTWISE
from algos.lib.handlers_layers import LAYERS
from algos.lib.handlers_movement import MOVEMENT

HANDLERS: dict[str, Handler] = LAYERS | ELEMENTWISE | MOVEMENT
"""What adds the operation of a recorded operator, e.g. of ``aten.linear``."""

HINTS: dict[str, str] = {
    "aten.sigmoid": "x * sigmoid(x) is taken as silu; there is no sigmoid by itself",
    "aten.tanh": "the tanh form of gelu is taken; there is no tanh by itself",
    "aten.hardtanh": "use relu",
    "aten.relu6": "use relu",
    "aten.leaky_relu": "use relu",
    "aten.elu": "use relu, gelu or silu",
    "aten.softmax": "a softmax is taken inside attention only; leave the last one to the host",
    "aten.log_softmax": "leave the last softmax to the host",
    "aten.conv1d": "write it as conv2d with a kernel of height 1",
    "aten.conv3d": "only conv2d and linear run on the engine",
    "aten.conv_transpose2d": "only conv2d and linear run on the engine",
    "aten.lstm": "recurrent layers are not supported",
    "aten.gru": "recurrent layers are not supported",
    "aten.group_norm": "use batch_norm, which folds into the convolution",
    "aten.instance_norm": "use batch_norm, which folds into the convolution",
}
"""What to do instead of an operator that no network has."""
