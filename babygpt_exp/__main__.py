"""`python -m babygpt_exp`: train a model."""

from babygpt_exp.cli import main

if __name__ == "__main__":
    main()
