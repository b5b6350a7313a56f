"""One reader a container: each turns the bytes of a file into :class:`~sane_engine.intake.tree.Contents`."""
