"""`python -m c3s3_seg` is `c3s3-seg`."""

from c3s3_seg.cli import program

if __name__ == "__main__":
    program()
