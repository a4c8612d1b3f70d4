from __future__ import annotations

from dataclasses import replace

import pytest

from qat.config import Config, with_rates
from qat.config.models import HFTextConfig, ModelConfig, TimmConfig
from qat.config.run import FRESH_RATE, LOADED_RATE


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        (TimmConfig(), FRESH_RATE),
        (TimmConfig(pretrained=True), LOADED_RATE),
        (TimmConfig(path="x.safetensors"), LOADED_RATE),
        (HFTextConfig(name="bert"), FRESH_RATE),
        (HFTextConfig(path="folder"), LOADED_RATE),
    ],
    ids=str,
)
def test_rate_that_is_left_open_goes_with_the_weights(model: ModelConfig, rate: float) -> None:
    config = with_rates(Config(model=model))
    assert config.fp32.lr == rate
    assert config.qat.lr == pytest.approx(rate / 10)


def test_rates_that_are_given_stay_and_qat_follows_fp32() -> None:
    config = Config()
    config.fp32.lr = 0.5
    assert with_rates(config).qat.lr == pytest.approx(0.05)
    given = replace(config, qat=replace(config.qat, lr=0.3))
    assert (with_rates(given).fp32.lr, with_rates(given).qat.lr) == (0.5, 0.3)
    assert config.qat.lr is None, "the argument is left alone"
