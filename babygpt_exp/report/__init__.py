"""The report of a sweep, or of a run: summary.csv, summary.md and report.html in its folder."""
