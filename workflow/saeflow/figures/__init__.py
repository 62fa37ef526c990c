"""One file per kind of plot or table; reads metrics only."""
