"""How fast a configuration trains here, and what of that is lost on the way.

The platform is compared with a bare loop: the same compiled model, parameters, optimizer,
schedule and real batches, driven by a few lines of plain PyTorch, and nothing else: no Lightning,
no callback, no logger, no stream, no loss that is looked at.

Both train the same model, in turns, in one process. Between two steps of the Lightning run a
callback runs the bare loop for a while, then the run goes on with its next batch. So both have the
same code in the caches, the same tensors at the same addresses, the same threads, and the same
neighbours; nothing is compiled twice or in a window; and neither is nearer to the start. What both
learn is one training, in which nothing is undone. Each window of the bare loop is compared with
the mean of the run's windows before and after it, so that a slow drift of the machine cancels;
the median of these ratios is reported.

The run is the one that training would start: its callbacks, its loggers, its logging interval
and its embedded streamer. Only its end, evaluations, samples and checkpoints are left out of the
windows: in a run they stop the clock of training too. Of the bare loop's batches nothing is left
out in favour of the run: they are in memory, on the device.
"""
