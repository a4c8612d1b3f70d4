"""Sweeps: many runs of one command. Nothing here knows Hydra; `hydra_plugins/qat_sweepers.py` is the door."""
