"""The heart: capture, placement, fake quantization, convert, program, engines. Pure PyTorch."""
