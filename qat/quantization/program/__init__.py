"""The INT8 program as data."""
