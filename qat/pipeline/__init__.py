"""The commands as plain functions: train, and what follows from a checkpoint or an artifact."""
