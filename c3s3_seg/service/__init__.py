"""The service: it receives studies from folders and PACS, segments them and sends results to PACS.

settings   the table `serve` of c3s3-seg.toml
queue      the state of each study, in SQLite; spool: the received files
service    the main loop; its parts: sources, intake, work, monitor
"""
