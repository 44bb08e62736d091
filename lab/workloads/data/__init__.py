"""Data sets and the features computed from them: one file per data set, each naming its public source."""
