from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.callbacks import EarlyStopping

from qat.errors import ConfigError
from qat.training.callbacks.build import build_callbacks
from qat.training.callbacks.ema import EMA

STOP = {"_target_": "pytorch_lightning.callbacks.EarlyStopping", "monitor": "val/loss", "patience": 7}


def test_callbacks_are_made_of_their_classes_and_arguments() -> None:
    ema, stop = build_callbacks({"ema": {"_target_": "qat.training.callbacks.ema.EMA", "decay": 0.9}, "no": None, "stop": STOP})
    assert isinstance(ema, EMA)
    assert isinstance(stop, EarlyStopping)
    assert (stop.monitor, stop.patience) == ("val/loss", 7)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"decay": 0.9}, r"callbacks\.x names no class; choose one.*callbacks=x"),
        (3, "names no class"),
        ({"_target_": "nowhere.Nothing"}, "cannot be imported"),
        ({"_target_": "os.system", "command": "true"}, "is no Lightning callback"),
        ({"_target_": "torch.nn.Linear"}, "is no Lightning callback"),
        ({**STOP, "patients": 3}, r"has no argument 'patients'.*Did you mean 'patience'"),
        ({"_target_": "pytorch_lightning.callbacks.EarlyStopping"}, "cannot be made: TypeError"),
    ],
    ids=str,
)
def test_what_is_no_callback_is_refused(entry: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_callbacks({"x": entry})
