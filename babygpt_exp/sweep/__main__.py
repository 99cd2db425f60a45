"""`python -m babygpt_exp.sweep`: the process of a job that a launcher has sent elsewhere."""

from babygpt_exp.sweep.spawned import main

if __name__ == "__main__":
    main()
