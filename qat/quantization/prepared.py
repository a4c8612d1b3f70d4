"""The prepared model: a captured network with fake quantization in it, and the switches of every tensor by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from qat.errors import CalibrationError, ConfigError, ConvertError, SchemeError, near
from qat.quantization.fake_quantize import ActivationFakeQuantize, StoredFakeQuantize
from qat.quantization.graph.calls import InputSpec, flat_inputs
from qat.quantization.graph.forms import LEAF, Form, dressed
from qat.quantization.graph.nodes import GraphNode, quantized_tensor, rebind_device_, stored_name
from qat.quantization.pickling import network_of, record_of
from qat.quantization.placement import Placement
from qat.quantization.qparams import ACTIVATION_LOW, QParams
from qat.quantization.targets import renamed


class PreparedModel(nn.Module):
    """A captured network with fake quantization placed for one target.

    Args:
        network: the graph; convolutions, linear layers and float ops are still ATen calls on float tensors.
        inputs: what it takes.
        placement: what runs as integers after `convert`.
        target: name of what it is made for, see `targets.py`.
        scheme: everything that decides where and how the model is quantized; a checkpoint only loads into the same one.
        form: the types in which the model returns its tensors.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        *,
        inputs: tuple[InputSpec, ...],
        placement: Placement,
        target: str,
        scheme: dict[str, object],
        form: Form = LEAF,
    ) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs
        self.placement = placement
        self.target = target
        self.scheme = scheme
        self.form = form

    def forward(self, *args: object, **kwargs: object) -> object:
        """Called as the model is: positional or keyword arguments, nested as in the example; numbers are part of the graph.

        Raises:
            InputError: inputs that the graph does not take, or of a size that was not declared free.
        """
        output = self.network(*flat_inputs(args, kwargs, self.inputs))
        return output if self.form.is_plain else dressed(output, self.form)

    def __getstate__(self) -> dict[str, object]:
        modules = {name: module for name, module in self._modules.items() if name != "network"}
        return {**vars(self), "_modules": modules, "_record": record_of(self.network)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        record = state.pop("_record")
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self.network = network_of(record)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedModel:
        """Move to another device or dtype; `arange` and the like, whose device an exported graph pins, move along."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        rebind_device_(self.network, self.device)
        return self

    @property
    def device(self) -> torch.device:
        """Where its tensors are; a model may have buffers alone."""
        return next(chain(self.parameters(), self.buffers())).device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """In evaluation mode inside of the block; every module gets its own mode back."""
        modes = {module: module.training for module in self.modules()}
        self.eval()
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode

    def fake_quantizes(self) -> Iterator[tuple[str, ActivationFakeQuantize]]:
        """Every activation's fake quantization with the name of the tensor it stands behind."""
        for node, module in self._calls():
            if isinstance(module, ActivationFakeQuantize):
                yield quantized_tensor(node).name, module

    def grids(self) -> dict[str, QParams]:
        """The grid of every activation by the name of its tensor.

        Raises:
            CalibrationError: a tensor has none yet; it is named.
            ConvertError: the clamp of a grid is to stand for an activation, and the grid reaches below 0.
        """
        grids = {}
        for name, module in self.fake_quantizes():
            try:
                grids[name] = module.qparams()
            except CalibrationError as error:
                raise CalibrationError(f"tensor {name!r}: {error}") from None
            if name in self.placement.absorbed and grids[name].zero_point != ACTIVATION_LOW:
                raise ConvertError(
                    f"tensor {name!r} is never negative, and the clamp of its grid makes it so: the grid has to start at 0, "
                    f"got zero point {grids[name].zero_point}. Its fake quantization has to see that"
                )
        return grids

    def stored_fake_quantizes(self) -> Iterator[tuple[str, StoredFakeQuantize]]:
        """The fake quantization of every stored weight and table, with the name of the stored tensor."""
        for node, module in self._calls():
            if isinstance(module, StoredFakeQuantize):
                stored = node.args[0].args[0] if module.behind_lookup else node.args[0]
                yield stored_name(stored), module

    def _calls(self) -> Iterator[tuple[GraphNode, nn.Module]]:
        """The fake quantizations in the order of the graph."""
        for node in self.network.graph.nodes:
            if node.op == "call_module":
                yield node, self.network.get_submodule(node.target)

    def quantizers(self) -> Iterator[tuple[str, ActivationFakeQuantize | StoredFakeQuantize]]:
        """Every fake quantization with the name of its tensor: of the graph for activations, of the state dict for weights (one
        that several kinds of layers share has several)."""
        yield from self.fake_quantizes()
        yield from self.stored_fake_quantizes()

    def set_observing_(self, on: bool, names: Iterable[str] | None = None) -> None:
        """Let observers update their ranges in the forward passes of training (and of `calibrate`), or freeze them.

        Args:
            names: of activations, see `fake_quantizes`; None means all.

        Raises:
            ConfigError: a name that no activation on a grid has.
        """
        for module in _named(self.fake_quantizes(), names):
            module.observing = on

    def set_quantizing_(self, on: bool, names: Iterable[str] | None = None) -> None:
        """Round in forward, or compute in plain float.

        Args:
            names: of activations and weights, see `quantizers`; None means all.

        Raises:
            ConfigError: a name that no quantized tensor has.
        """
        for module in _named(self.quantizers(), names):
            module.quantizing = on

    def load_from_target_(self, state: Mapping[str, Any]) -> None:
        """Take over weights and ranges that were trained for another target with the same kernels.

        Raises:
            SchemeError: more than the target differs.
            RuntimeError: names or shapes that do not fit, as `load_state_dict` raises.
        """
        if "_extra_state" not in state:
            raise RuntimeError("it holds no quantization scheme: it is of no prepared model")
        retargeted = {**_unpacked(state["_extra_state"]), "target": self.target}
        self.load_state_dict({**state, "_extra_state": _packed(retargeted)} if retargeted == self.scheme else state)

    def get_extra_state(self) -> Tensor:
        return _packed(self.scheme)

    def set_extra_state(self, state: Tensor | str) -> None:
        stored = _unpacked(state)
        if "backend" in stored:  # before targets took the place of backends
            raise SchemeError(
                f"the checkpoint was trained by an earlier qat, for backend {stored['backend']!r}, target {stored['target']!r};"
                f"{renamed(stored['target']) or ''} Its FP32 stage is as good as ever: start a new run with baseline=RUN."
            )
        differences = [
            _difference(key, stored.get(key), self.scheme.get(key))
            for key in sorted(stored.keys() | self.scheme.keys())
            if stored.get(key) != self.scheme.get(key)
        ]
        if differences:
            raise SchemeError(
                "the checkpoint was trained with another quantization scheme:\n  "
                + "\n  ".join(d[:300] for d in differences)
                + "\nResume with the settings it was trained with, or start a new run from its weights."
            )


AnyModule = TypeVar("AnyModule")


def _named(pairs: Iterable[tuple[str, AnyModule]], names: Iterable[str] | None) -> list[AnyModule]:
    known = list(pairs)
    chosen = {name for name, _ in known} if names is None else set(names)
    for name in sorted(chosen - {name for name, _ in known}):
        raise ConfigError(f"no quantized tensor is called {name!r}.{near(name, [name for name, _ in known])}")
    return [module for name, module in known if name in chosen]


def target_of(state: Mapping[str, Any]) -> str | None:
    """The target that the state dict of a prepared model was trained for; None when it is of no prepared model."""
    return _unpacked(state["_extra_state"]).get("target") if "_extra_state" in state else None


def _packed(scheme: Mapping[str, object]) -> Tensor:
    """A scheme as JSON in a uint8 tensor: state dicts hold tensors alone, so that averaging, hashing and safetensors work."""
    return torch.frombuffer(bytearray(json.dumps(scheme, sort_keys=True).encode()), dtype=torch.uint8)


def _unpacked(state: Tensor | str) -> dict[str, Any]:
    """The scheme in an extra state; those of earlier checkpoints are strings."""
    text = state if isinstance(state, str) else bytes(state.cpu().numpy())
    scheme: dict[str, object] = json.loads(text)
    return scheme


def _difference(key: str, stored: object, own: object) -> str:
    """One difference in words; of two lists of names only what the other lacks."""
    if isinstance(stored, list) and isinstance(own, list):
        stored, own = [name for name in stored if name not in own], [name for name in own if name not in stored]
        return f"{key}: checkpoint alone has {stored}, model alone has {own}"
    return f"{key}: checkpoint {stored!r}, model {own!r}"
