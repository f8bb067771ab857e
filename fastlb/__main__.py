"""The entry of `fastlb` and of `python -m fastlb`.

Imports nothing at module level: every worker process is spawned, and a spawned process imports
this file again, so that an import here would cost each worker its time and memory.
"""

import sys


def main() -> None:
    """Run the command line and leave with its exit status."""
    from fastlb.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
