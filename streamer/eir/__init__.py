"""EIR's streaming protocol 1.0, both ways: what its client needs, and a client of such servers."""
