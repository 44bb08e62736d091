"""Operations of a program: one kernel each, with its float or integer reference."""
