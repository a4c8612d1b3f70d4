"""An x86 CPU without AVX-512 and VNNI, on one that has both: what PyTorch's kernels are told is withheld before they ask.

    python -m tests.avx2 PROGRAM ARGUMENTS      (for example: .venv/bin/qat-train recipe=digits_resnet)
    QAT_TEST_CPU=avx2 python -m pytest          (`make test-avx2`)

FBGEMM and PyTorch's choice between FBGEMM and oneDNN read one table of flags (cpuinfo's) each time they pack or run; the flags
are found by clearing one after the other until FBGEMM's own question answers no. ATen and oneDNN take an environment variable.
Nothing is emulated: the kernels that then run are those of an AVX2 machine.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
from pathlib import Path

#: FBGEMM's questions, as its C++ compiler names them.
_QUESTIONS = ("_ZN6fbgemm26fbgemmHasAvx512VnniSupportEv", "_ZN6fbgemm22fbgemmHasAvx512SupportEv")


def hide_avx512() -> bool:
    """Withhold AVX-512 and VNNI from the kernels of this process; call it before torch is imported.

    Returns:
        Whether the process now runs AVX2 kernels.
    """
    assert "torch" not in sys.modules, "torch has already asked what this CPU can do"
    os.environ.update(ATEN_CPU_CAPABILITY="avx2", ONEDNN_MAX_CPU_ISA="AVX2")
    import torch

    folder = Path(torch.__file__).parent / "lib"
    try:
        torch_library = ctypes.CDLL(str(folder / "libtorch.so"))
        torch_library.cpuinfo_initialize()
        flags = (ctypes.c_uint8 * 64).in_dll(torch_library, "cpuinfo_isa")
        kernels = ctypes.CDLL(str(folder / "libtorch_cpu.so"))
        questions = [getattr(kernels, name) for name in _QUESTIONS]
    except (OSError, ValueError, AttributeError):
        return False
    for question in questions:
        question.restype = ctypes.c_bool
        for i in range(len(flags)):
            if question() and flags[i] == 1:
                flags[i] = 0
                flags[i] = 1 if question() else 0
    return not any(question() for question in questions)


if __name__ == "__main__":
    if not hide_avx512():
        sys.exit("this PyTorch build has no flags to clear")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
