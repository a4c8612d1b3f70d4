"""The real files: every image and box counted as the description says."""

from __future__ import annotations

from pathlib import Path

import torch

from qat.data.detection.coco import coco_source


def test_bccd_has_its_images_boxes_and_labels(shared_data: Path) -> None:
    source = coco_source(shared_data / "bccd")
    assert source.labels == ("WBC", "RBC", "Platelets")
    assert source.val is not None
    counts, names = [], []
    for table in (source.train, source.val, source.test):
        drawn = [table.boxes(index) for index in range(len(table.targets))]
        corners = torch.cat([boxes.corners for boxes in drawn])
        counts.append((len(drawn), len(corners)))
        names += [table.name(index) for index in range(len(drawn))]
        assert {table.size(index) for index in range(len(drawn))} == {(640, 480)}
        assert (corners[:, 2:] > corners[:, :2]).all()
        assert not any(boxes.crowd.any() for boxes in drawn)
    assert counts == [(205, 2_804), (87, 1_137), (72, 945)]
    assert len(set(names)) == len(names) == 364
