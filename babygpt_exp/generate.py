"""`python -m babygpt_exp.generate RUN`: text of a trained model."""

from babygpt_exp.generation.cli import main

if __name__ == "__main__":
    main()
