"""The service: takes studies from folders and from the network, segments them, sends results back.

settings   the table `serve` of c3s3-seg.toml
queue      what is to be done, in SQLite; spool: the files
service    the loop; sources, work, store and monitor are its parts
"""
