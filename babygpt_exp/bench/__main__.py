"""`python -m babygpt_exp.bench`: measure a configuration."""

from babygpt_exp.bench.cli import main

if __name__ == "__main__":
    main()
