"""Small fresh Hugging Face detectors."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from qat.data.detection.shapes import shapes_source
from qat.data.detection.source import BoxSource
from qat.models.float_model import FloatModel
from qat.models.hf_detector import build_hf_detector
from tests.models.detectors import DETECTORS

SIZE, QUERIES = 96, 20


def data(*labels: str) -> BoxSource:
    source = shapes_source(train=4, test=2)
    return dataclasses.replace(source, labels=labels) if labels else source


def inner(built: FloatModel) -> Any:
    """The library's model."""
    return built.module.get_submodule("model")


def fresh(name: str, **changes: Any) -> FloatModel:
    torch.manual_seed(0)
    given = {"data": data(), "name": name, "image_size": SIZE, "options": DETECTORS.get(name), **changes}
    return build_hf_detector(**given)
