"""The report: outcomes in, one `Analysis` out, shown as text, as a page and as charts."""
