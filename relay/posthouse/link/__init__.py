"""Member to member: the sessions of a front at the active broker of another member."""
