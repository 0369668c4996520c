"""Shared code of the examples that have options; not an example itself.

The options that they have in common, and the end of a run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt


def parser(
    description: str | None, *, quick: str, check: str
) -> argparse.ArgumentParser:
    """Return a parser of the options --output, --quick and --check.

    Parameters
    ----------
    description : str or None
        The script's docstring; ``--help`` shows its title.
    quick, check : str
        Help of ``--quick`` and ``--check``, with "%%" for a percent sign.

    Returns
    -------
    argparse.ArgumentParser
        Scripts may add other options.
    """
    title = (description or "").strip().partition("\n")[0]
    result = argparse.ArgumentParser(description=title.replace("%", "%%"))
    result.add_argument("--output", type=Path, help="file of the picture")
    result.add_argument("--quick", action="store_true", help=quick)
    result.add_argument("--check", action="store_true", help=check)
    return result


def finish(figure: plt.Figure, options: argparse.Namespace, problem: str) -> None:
    """Save the picture or show it; with --check, exit with an error on a problem.

    Parameters
    ----------
    figure : Figure
        Picture of the results.
    options : argparse.Namespace
        Options that `parser` has read.
    problem : str
        Claim that does not hold; empty if all hold.
    """
    if options.output:
        figure.savefig(options.output, dpi=100)
        print(f"picture: {options.output}")
    else:
        plt.show()
    if options.check and problem:
        sys.exit(f"check failed: {problem}")
