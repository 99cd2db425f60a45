"""`python -m babygpt_exp.parallel`: one of the processes that `start` has started."""

from babygpt_exp.command import importing_torch

with importing_torch():
    from babygpt_exp.parallel.start import main

if __name__ == "__main__":
    main()
