"""The commands. Hydra ends here."""
