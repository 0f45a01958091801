"""What a file really is, told by its first bytes, whatever its name says."""

GZIP = b"\x1f\x8b"
_MAGIC = (
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer; run `git lfs pull`"),
    (GZIP, "a gzip file; add .gz to its name, or unpack it"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "a bzip2 file; unpack it"),
    (b"\xfd7zXZ\x00", "an xz file; unpack it"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file; unpack it"),
    (b"\x04\x22\x4d\x18", "an LZ4 file; unpack it"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"\x89PNG", "an image"),
    (b"%PDF-", "a PDF"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    *((bytes((0x80, version)), "a pickle, which is never loaded") for version in range(2, 6)),
    (b"\xff\xfe\x00\x00", "UTF-32 text; convert it with iconv -t utf-8"),
    (b"\x00\x00\xfe\xff", "UTF-32 text; convert it with iconv -t utf-8"),
    (b"\xff\xfe", "UTF-16 text; convert it with iconv -t utf-8"),
    (b"\xfe\xff", "UTF-16 text; convert it with iconv -t utf-8"),
)
_MARKUP = (b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--")

HEAD_BYTES = 512


def kind_of(head: bytes) -> str | None:
    """Return what a file is and the remedy, from its first bytes; None if they do not tell."""
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(_MARKUP):
        return "a web page (HTML or XML), such as an error page; download the file again"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 27:
        return "a safetensors file"
    return None
