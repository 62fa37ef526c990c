"""The models that are interpreted: pretrain, load, run to a site, splice a site."""
