"""Judging models: metrics, intervals, gates, latency."""
