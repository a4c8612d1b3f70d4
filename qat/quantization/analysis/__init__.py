"""Looks at a quantized network and changes nothing."""
