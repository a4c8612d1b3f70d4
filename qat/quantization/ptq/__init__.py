"""Post-training methods, one function each."""
