"""`python -m babygpt_exp.export RUN DIR`."""

from babygpt_exp.export.cli import main

if __name__ == "__main__":
    main()
