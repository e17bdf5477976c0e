"""`python -m retraced` is the command `retraced`."""

from retraced.cli import main

if __name__ == "__main__":
    main()
