"""The parts of a SpatialData store that a section is made of."""
