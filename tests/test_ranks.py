from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qat.quantization.calibrate import calibrate
from qat.quantization.observer import OBSERVERS, Observer, make_observer
from qat.quantization.prepare import prepare
from qat.quantization.prepared import PreparedModel
from qat.ranks import any_rank, differences, leads, own_share, range_over_ranks, rank, sum_over_ranks, together, world_size
from tests.ranks import in_ranks


def batches() -> list[Tensor]:
    """Five batches of eight; every later one reaches further, so that histograms widen."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, 3, 4, 4, generator=generator) * (1 + i) + i for i in range(5)]


def part(batch: Tensor) -> Tensor:
    """What this rank has of a global batch."""
    return batch.chunk(world_size())[rank()]


def observed(name: str) -> Observer:
    observer = make_observer(name)
    for batch in batches():
        observer.observe(part(batch))
    return observer


def network() -> PreparedModel:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5))
    return prepare(model, (batches()[0],), observer="histogram")


def calibrated() -> tuple[dict[str, tuple[float, int]], list[Tensor]]:
    """Grids and biases of a network that was calibrated, each rank on its part of every batch."""
    prepared = network()
    calibrate(prepared, [part(batch) for batch in batches()])
    grids = {name: (float(module.scale), int(module.zero_point)) for name, module in prepared.fake_quantizes()}
    return grids, [value.detach() for name, value in prepared.named_parameters() if name.endswith("bias")]


def everything() -> dict[str, Any]:
    """All that the tests below ask of one rank; starting ranks is what costs."""
    own = {"seed": 1, "qat": {"lr": 0.1 * (1 + rank())}, "path": f"rank-{rank()}"}
    return {
        "rank": (rank(), world_size(), leads(), together()),
        "observers": {name: observed(name).state_dict() for name in OBSERVERS},
        "calibrated": calibrated(),
        "shares": [list(own_share(range(n))) for n in (1, 2, 5, 6)],
        "range": [float(x) for x in range_over_ranks(torch.tensor(-1.0 - rank()), torch.tensor(5.0 - rank()))],
        "sum": sum_over_ranks(torch.tensor([1.0, rank()])),
        "any": (any_rank(rank() == 1), any_rank(False)),
        "differences": (differences({"seed": 1, "data": {"root": "a"}, "empty": {}}), differences(own)),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return in_ranks(everything, tmp_path_factory.mktemp("ranks"))


def test_without_others_this_is_rank_0_of_1_and_nothing_changes() -> None:
    assert (rank(), world_size(), leads(), together()) == (0, 1, True, False)
    assert range_over_ranks(torch.tensor(-1.0), torch.tensor(2.0)) == (torch.tensor(-1.0), torch.tensor(2.0))
    assert torch.equal(sum_over_ranks(torch.ones(2)), torch.ones(2))
    assert any_rank(True)
    assert not any_rank(False)
    assert differences({"a": 1}) == ""


def test_ranks_know_who_they_are(two: list[dict[str, Any]]) -> None:
    assert [found["rank"] for found in two] == [(0, 2, True, True), (1, 2, False, True)]


@pytest.mark.parametrize("name", OBSERVERS)
def test_observers_of_all_ranks_hold_what_one_process_with_all_batches_holds(name: str, two: list[dict[str, Any]]) -> None:
    alone = observed(name).state_dict()
    for found in two:
        assert found["observers"][name].keys() == alone.keys()
        for key, value in alone.items():
            assert torch.equal(found["observers"][name][key], value), key


def test_calibration_gives_all_ranks_grids_and_biases_of_one_process_with_all_samples(two: list[dict[str, Any]]) -> None:
    grids, biases = calibrated()
    assert len(grids) > 1
    before = [value for name, value in network().named_parameters() if name.endswith("bias")]
    assert any(not torch.equal(old, new) for old, new in zip(before, biases, strict=True)), "biases were corrected"
    for found in two:
        assert found["calibrated"][0] == grids
        for ours, theirs in zip(found["calibrated"][1], biases, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_shares_are_equal_and_disjoint(two: list[dict[str, Any]]) -> None:
    assert two[0]["shares"] == [[0], [0], [0, 2], [0, 2, 4]]
    assert two[1]["shares"] == [[0], [1], [1, 3], [1, 3, 5]]
    assert list(own_share(range(3))) == [0, 1, 2], "alone all of them"


def test_reductions_are_the_same_on_all_ranks(two: list[dict[str, Any]]) -> None:
    for found in two:
        assert found["range"] == [-2.0, 5.0]
        assert torch.equal(found["sum"], torch.tensor([2.0, 1.0]))
        assert found["any"] == (True, False)


def test_differences_name_the_keys_and_who_has_what(two: list[dict[str, Any]]) -> None:
    same, other = two[0]["differences"]
    assert same == ""
    assert other == "path: rank 0 'rank-0', rank 1 'rank-1'; qat.lr: rank 0 0.1, rank 1 0.2"
    assert two[1]["differences"] == two[0]["differences"]
