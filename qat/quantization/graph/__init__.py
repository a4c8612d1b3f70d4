"""From an `nn.Module` to one ATen graph."""
