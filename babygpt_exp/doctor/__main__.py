"""`python -m babygpt_exp.doctor`: can this run here?"""

from babygpt_exp.doctor.cli import main

if __name__ == "__main__":
    main()
