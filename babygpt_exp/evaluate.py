"""`python -m babygpt_exp.evaluate RUN`: bits a byte of a trained model on any text, and tasks."""

from babygpt_exp.evaluation.cli import main

if __name__ == "__main__":
    main()
