"""The command ``seqjax``, which is ``python -m seqjax`` as well."""

import sys


def main() -> None:
    """Run the command line; where its packages are not installed, say which and how to get them."""
    try:
        from seqjax import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in ("seqjax", "jax"):
            raise
        print(
            f"seqjax: the command line needs the package {error.name}: pip install 'seqjax[report]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    cli.main()


if __name__ == "__main__":
    main()
