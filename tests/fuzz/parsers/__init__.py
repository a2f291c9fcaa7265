"""The targets, by where their bytes come from; `every` has them all."""
