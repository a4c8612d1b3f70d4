"""What a run reports: JSON, terminal table, plots."""
