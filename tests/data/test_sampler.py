from __future__ import annotations

from qat.data.sampler import EpochSampler


def test_sampler_visits_samples_once_and_drops_the_incomplete_batch() -> None:
    sampler = EpochSampler(23, batch_size=5, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 4
    assert all(len(batch) == 5 for batch in batches)
    assert len({key for batch in batches for key in batch}) == 20


def test_sampler_order_depends_on_seed_and_epoch_alone() -> None:
    sampler, other = EpochSampler(20, batch_size=5, seed=0), EpochSampler(20, batch_size=5, seed=1)
    first = [[index for _, index in batch] for batch in sampler]
    sampler.set_epoch(1)
    second = [[index for _, index in batch] for batch in sampler]
    sampler.set_epoch(0)
    assert first != second
    assert first != [[index for _, index in batch] for batch in other]
    assert first == [[index for _, index in batch] for batch in sampler]


def test_sampler_skips_once() -> None:
    sampler = EpochSampler(20, batch_size=5, seed=0)
    whole = list(sampler)
    sampler.skip_batches = 3
    assert list(sampler) == whole[3:]
    assert list(sampler) == whole
    assert len(sampler) == 4


def test_sampler_processes_share_one_permutation() -> None:
    alone = list(EpochSampler(24, batch_size=6, seed=0))
    pair = [list(EpochSampler(24, batch_size=3, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    assert [first + second for first, second in zip(*pair, strict=True)] == alone
