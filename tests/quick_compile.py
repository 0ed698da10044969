"""Prints the XLA flags with which the tests compile: `make test` puts them into the environment.

The suite compiles some ten thousand small programs, and takes three times as long with the code
that XLA makes for speed. Without fused multiply-adds (AVX has none) a value that is computed twice
is the same twice, which without LLVM's optimisations it else is not. The slow and the pinned tests,
the doctests and those against peers compile as users do.

A flag that a version of jaxlib does not know ends the process, so they are tried first.
"""

import os
import subprocess
import sys

ANY = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
CPU = (
    "--xla_cpu_max_isa=AVX",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_enable_concurrency_optimized_scheduler=false",
)
OLDER = ("--xla_cpu_use_fusion_emitters=false",)  # which jaxlib 0.12 has no more


def is_taken(flags: str) -> bool:
    """Whether jaxlib here compiles with them, for a CPU, which is what they are for."""
    program = "import jax; jax.jit(lambda x: x * x + 1)(2.0); assert jax.default_backend() == 'cpu'"
    command = [sys.executable, "-c", program]
    environment = os.environ | {"XLA_FLAGS": flags}
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def main() -> None:
    """The most of them that are taken, after those that are set."""
    own = os.environ.get("XLA_FLAGS", "")
    for flags in ((*ANY, *CPU, *OLDER), (*ANY, *CPU), ANY, ()):
        text = " ".join((own, *flags)).strip()
        if not flags or is_taken(text):
            print(text)
            return


if __name__ == "__main__":
    main()
