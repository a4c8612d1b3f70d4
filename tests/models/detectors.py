"""Small detectors of every kind that transformers has: options of `build_hf_detector` for images of 96 x 96 pixels."""

from __future__ import annotations

from typing import Any

_WIDTHS: dict[str, Any] = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 64, "num_queries": 20}
_HEADS: dict[str, Any] = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64}
_RESNET: dict[str, Any] = {"embedding_size": 16, "hidden_sizes": [16, 24, 32, 48], "depths": [1] * 4, "layer_type": "basic"}
_HGNET: dict[str, Any] = {
    "model_type": "hgnet_v2",
    "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 32, 48],
    "stage_mid_channels": [8, 8, 16, 16],
    "stage_out_channels": [16, 32, 48, 64],
    "hidden_sizes": [16, 32, 48, 64],
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [2] * 4,
    "out_features": ["stage3", "stage4"],
}
_DINO: dict[str, Any] = {
    "model_type": "rf_detr_dinov2",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "mlp_ratio": 2,
    "image_size": 96,
    "patch_size": 12,
    "num_windows": 2,
    "out_features": ["stage2", "stage3"],
}


def _detr(*stages: str, **options: Any) -> dict[str, Any]:
    backbone = {"model_type": "resnet", **_RESNET, "out_features": list(stages)}
    return {**_WIDTHS, **_HEADS, "encoder_layers": 1, "backbone_config": backbone, **options}


#: Model type -> options.
DETECTORS: dict[str, dict[str, Any]] = {
    "d_fine": {
        **_WIDTHS,
        **_HEADS,
        "backbone_config": _HGNET,
        "encoder_in_channels": [48, 64],
        "encoder_hidden_dim": 32,
        "encode_proj_layers": [1],
        "feat_strides": [16, 32],
        "num_feature_levels": 2,
        "decoder_in_channels": [32, 32],
        "decoder_n_points": [3, 3],
        "depth_mult": 0.34,
        "hidden_expansion": 0.34,
    },
    "rt_detr_v2": {
        **_WIDTHS,
        **_HEADS,
        "backbone_config": {"model_type": "rt_detr_resnet", **_RESNET, "out_features": ["stage2", "stage3", "stage4"]},
        "encoder_in_channels": [24, 32, 48],
        "encoder_hidden_dim": 32,
        "decoder_in_channels": [32] * 3,
    },
    "detr": _detr("stage4"),
    "conditional_detr": _detr("stage4"),
    "deformable_detr": _detr("stage3", "stage4", num_feature_levels=2, decoder_n_points=2, encoder_n_points=2),
    "yolos": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "image_size": [96, 96],
        "num_detection_tokens": 20,
    },
    "rf_detr": {
        **_WIDTHS,
        "backbone_config": _DINO,
        "decoder_self_attention_heads": 4,
        "decoder_cross_attention_heads": 4,
    },
}
