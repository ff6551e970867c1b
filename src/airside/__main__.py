"""`python -m airside` is the command `airside`."""

from airside.cli import main

if __name__ == "__main__":
    main()
