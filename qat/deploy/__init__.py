"""Everything that a server imports: artifact, preprocessing, postprocessing."""
