"""One self-contained HTML page of everything that was made: claims, figures, tables, provenance."""
