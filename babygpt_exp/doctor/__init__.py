"""`python -m babygpt_exp.doctor`: what this machine can do, and what a run would need of it."""
