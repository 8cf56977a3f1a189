"""The command ``seqjax``, which is ``python -m seqjax`` as well."""

import sys


def main() -> None:
    """Run the command line; where its packages are not installed, say which and how to get them."""
    try:
        from seqjax import cli
    except ModuleNotFoundError as error:
        if str(error.name).startswith("seqjax"):
            raise
        print(
            f"seqjax: the command line needs the package {error.name}: pip install 'seqjax[report]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:  # importing takes seconds
        print("seqjax: interrupted.", file=sys.stderr)
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
