"""`python -m trimformer` is the command line."""

from trimformer.cli import main

if __name__ == "__main__":
    main()
