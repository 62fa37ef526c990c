"""From sources (installed documentation, files, hub, generators) to documents."""
