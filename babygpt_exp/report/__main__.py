"""`python -m babygpt_exp.report DIR`."""

from babygpt_exp.report.cli import main

if __name__ == "__main__":
    main()
