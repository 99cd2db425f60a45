"""`python -m babygpt_exp.serve RUN`: completions of a trained model over HTTP."""

from babygpt_exp.serving.cli import main

if __name__ == "__main__":
    main()
