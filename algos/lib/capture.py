# SPDX-License-Identifier: Apache-2.0
"""A module as `torch.export` records it, with constants evaluated and places named.

The recorded operations are those that the module calls (no decomposition), so that a linear layer
is still one node. What does not depend on the values of the network's inputs (masks, rotary tables,
positions) is a constant here: it is evaluated at the example's sizes.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim
from torch.export.graph_signature import InputKind, OutputKind

DOCS = "docs/packed-format.md lists the operations of a network"


class ExportError(ValueError):
    """A module that has no equal among packed networks; names the operator and where it stands."""


def op_name(node: fx.Node) -> str:
    """Return the operator without its overload, e.g. ``aten.linear``."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet or getattr(node.target, "__name__", node.target))


class Capture:
    """A recorded module.

    Parameters
    ----------
    module : nn.Module
        Recorded in eval mode and float32; the module itself is not changed.
    example_inputs : tuple of Tensor
        Batch first. Token numbers are (B, L). The batch, and L of token numbers and of float
        (B, L, D), are recorded as variable where the module allows it.

    Attributes
    ----------
    module : nn.Module
        The copy that was recorded.
    inputs : tuple of fx.Node
        Inputs of the network.
    outputs : tuple of fx.Node
        What it returns.
    example_inputs : tuple of Tensor
        The example, with a batch of at least two.
    """

    def __init__(self, module: nn.Module, example_inputs: tuple[Tensor, ...]) -> None:
        self.module = copy.deepcopy(module).eval().float()
        # A batch of one would be recorded as the constant 1.
        self.example_inputs = tuple(
            torch.cat((x, x)) if x.shape[0] == 1 else x for x in map(_as_float, example_inputs)
        )
        dims = tuple(
            {d: Dim.AUTO for d in range(x.ndim) if d == 0 or (d == 1 and _is_sequence(x))}
            for x in self.example_inputs
        )
        program = _record(self.module, self.example_inputs, dims)
        self.graph = program.graph
        self._values: dict[fx.Node, Any] = {}
        self._bind(program)
        self._redirect_in_place()
        self._data = self._data_nodes()
        self.order = {node: i for i, node in enumerate(self.graph.nodes)}

    def _bind(self, program: torch.export.ExportedProgram) -> None:
        placeholders = {n.name: n for n in self.graph.nodes if n.op == "placeholder"}
        inputs: list[fx.Node] = []
        for spec in program.graph_signature.input_specs:
            node = placeholders[str(spec.arg.name)]
            if spec.kind is InputKind.USER_INPUT:
                inputs.append(node)
            elif spec.target in program.state_dict:
                self._values[node] = program.state_dict[spec.target].detach()
            else:
                constant = program.constants[str(spec.target)]
                self._values[node] = constant.detach() if isinstance(constant, Tensor) else constant
        self.inputs = tuple(inputs)
        output = next(n for n in self.graph.nodes if n.op == "output")
        outputs: list[fx.Node] = []
        for spec, node in zip(program.graph_signature.output_specs, output.args[0], strict=True):  # type: ignore[arg-type]
            if spec.kind is not OutputKind.USER_OUTPUT:
                raise ExportError(
                    f"the module writes its buffer {spec.target!r} in forward; "
                    "a network has no state (keys and values are cached by the machine)"
                )
            if isinstance(node, fx.Node):
                outputs.append(node)
        self.outputs = tuple(outputs)

    def _redirect_in_place(self) -> None:
        """Let readers after an in-place operation read its result instead of its first argument."""
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        for node in self.graph.nodes:
            if not is_in_place(node):
                continue
            target = node.args[0]
            if target.op == "placeholder" and target not in self.inputs:
                raise ExportError(
                    f"{op_name(node)} {self.where(node)}: it writes the parameter or buffer "
                    f"{target.name!r}; a network has no state (the machine caches keys and values)"
                )
            for user in list(target.users):
                if order[user] > order[node]:
                    user.replace_input_with(target, node)

    def _data_nodes(self) -> set[fx.Node]:
        data = set(self.inputs)
        for node in self.graph.nodes:
            if node.op == "call_function" and any(a in data for a in _read_values(node)):
                value = node.meta.get("val")
                if isinstance(value, Tensor | list | tuple):
                    data.add(node)
        return data

    # -- questions about a node --------------------------------------------------------------

    def is_data(self, node: object) -> bool:
        """Whether a node depends on the values of the network's inputs."""
        return isinstance(node, fx.Node) and node in self._data

    def data_args(self, node: fx.Node) -> list[fx.Node]:
        """Return the arguments of a node that depend on the network's inputs."""
        return [a for a in node.all_input_nodes if a in self._data]

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Return the shape of a node's value at the example's sizes; () for what is no tensor."""
        value = node.meta.get("val")
        return tuple(size_hint(size) for size in value.shape) if isinstance(value, Tensor) else ()

    def is_variable(self, node: fx.Node, dim: int) -> bool:
        """Whether the size of an axis depends on the inputs' batch or length."""
        return not isinstance(node.meta["val"].shape[dim], int)

    def path(self, node: fx.Node) -> tuple[str, bool]:
        """Return the path of the module that called a node, and whether it is one of torch's."""
        stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
        for path, kind in reversed(list(stack.values())):
            if path.startswith("_empty_nn_module"):
                continue
            name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
            return path, name.startswith("torch.nn.")
        return "", False

    def where(self, node: fx.Node) -> str:
        """Return where a node stands: module path and source line."""
        path = self.path(node)[0]
        place = f"in module {path!r}" if path else "at the top of the module"
        frames = re.findall(r'File "([^"]+)", line (\d+)', node.meta.get("stack_trace") or "")
        own = [(f, line) for f, line in frames if "/torch/" not in f]
        return f"{place} ({own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]})" if own else place

    def refuse(self, node: fx.Node, why: str, hint: str = DOCS) -> ExportError:
        """Return the error for a node that cannot be exported."""
        return ExportError(f"{op_name(node)} {self.where(node)}: {why}; {hint}")

    # -- evaluation --------------------------------------------------------------------------

    def value(self, node: object) -> Any:
        """Return the value of a constant node at the example's sizes; what is no node is itself."""
        if not isinstance(node, fx.Node):
            return node
        self.evaluate([node], self._values)
        return self._values[node]

    def run(self, output: fx.Node, given: Mapping[fx.Node, Tensor]) -> Tensor:
        """Evaluate a node from given values of some data nodes.

        Raises
        ------
        KeyError
            If the node depends on data that is not given.
        """
        values: dict[fx.Node, Any] = dict(given)
        self.evaluate([output], values)
        return values[output]

    def evaluate(self, outputs: Iterable[fx.Node], values: dict[fx.Node, Any]) -> None:
        """Add the values of `outputs`, and of all that they need, to `values`."""
        stack = list(outputs)
        while stack:
            node = stack[-1]
            if node in values:
                stack.pop()
                continue
            size = node.meta.get("val")
            if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool | int):
                values[node] = size_hint(size)
            elif node in self._data and node.op == "placeholder":
                raise KeyError(node.name)
            elif node not in self._data and node in self._values:
                values[node] = self._values[node]
            else:
                if node not in self._data:
                    # Only the shape of such an argument is read, e.g. by expand_as.
                    for a in self.data_args(node):
                        values.setdefault(a, torch.zeros(self.shape(a)))
                missing = [a for a in node.all_input_nodes if a not in values]
                if missing:
                    stack.extend(missing)
                    continue
                values[node] = _call(node, values)
                if node not in self._data:
                    self._values[node] = values[node]
            stack.pop()


def _record(
    module: nn.Module, inputs: tuple[Tensor, ...], dims: tuple[dict[int, Any], ...]
) -> torch.export.ExportedProgram:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            # They advise on torch's own uses of the recording.
            warnings.simplefilter("ignore")
            return torch.export.export(module, inputs, dynamic_shapes=dims)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(f"torch.export cannot record the module: {reason}") from error


def _read_values(node: fx.Node) -> list[fx.Node]:
    """Return the arguments whose values, not only whose shapes, a node depends on."""
    name = op_name(node)
    if name.endswith("_like") or name.startswith("aten.new_"):
        return []
    if name in ("aten.expand_as", "aten.view_as", "aten.type_as"):
        return [a for a in node.args[:1] if isinstance(a, fx.Node)]
    return node.all_input_nodes


def is_in_place(node: fx.Node) -> bool:
    """Whether a node writes its first argument."""
    name = op_name(node)
    return node.op == "call_function" and name.endswith("_") and not name.endswith("__")


def _call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    def lookup(argument: fx.Node) -> Any:
        return values[argument]

    args: Any = fx.map_arg(node.args, lookup)
    kwargs: Any = fx.map_arg(node.kwargs, lookup)
    if is_in_place(node):
        args = (args[0].clone(), *args[1:])
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def size_hint(size: Any) -> Any:
    """Return the example's value of a size that may be symbolic."""
    symbol: Any = size
    symbolic = isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool)
    return symbol.node.hint if symbolic else symbol


def _is_sequence(x: Tensor) -> bool:
    return x.ndim == (3 if x.is_floating_point() else 2)


def _as_float(x: Tensor) -> Tensor:
    return x.float() if x.is_floating_point() else x
