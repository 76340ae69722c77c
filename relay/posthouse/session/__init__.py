"""One connection's state machine, per dialect: frames and effects in, commands and frames out.

Sans-I/O: time is an argument, chance comes in through the constructor, and the shell moves the bytes.
"""
