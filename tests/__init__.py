"""A package, so that no package of this name that somebody installed takes its place."""
