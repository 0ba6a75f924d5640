"""`python -m trimformer` is the command line."""

from trimformer.cli.app import main

if __name__ == "__main__":
    main()
