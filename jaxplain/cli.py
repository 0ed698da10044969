"""The command line: `jaxplain demo`. Each command calls one function of the library.

Errors a user can mend are one line and a non-zero status, never a traceback.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxplain", description="Explain neural networks from inside JAX."
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="command")
    demo = commands.add_parser(
        "demo",
        help="train a small network on real digits, explain all of them, and look",
        description=(
            "Trains a small Flax NNX network on scikit-learn's 1,797 digits, explains every one by "
            "Integrated Gradients, tests the maps by deletion and insertion against random "
            "orderings, and writes the arrays and a picture. Downloads nothing; needs "
            "pip install 'jaxplain[demo]'."
        ),
    )
    demo.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("demo_output"),
        help="folder for digits.npz and digits.png (default: %(default)s)",
    )
    demo.add_argument(
        "--steps", type=int, default=32, help="gradients for each digit (default: %(default)s)"
    )
    demo.add_argument(
        "--batch-size", type=int, default=128, help="digits at once (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.version:
        import jaxplain

        print(f"jaxplain {jaxplain.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    try:
        from jaxplain import demo as program

        program.run(options.out, steps=options.steps, batch_size=options.batch_size)
    except ImportError as error:
        print(f"jaxplain demo: {error}. Try: pip install 'jaxplain[demo]'", file=sys.stderr)
        return 1
    except (OSError, TypeError, ValueError) as error:
        print(f"jaxplain demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
