"""The training loop. Lightning lives here and in the data modules, and nowhere below."""
