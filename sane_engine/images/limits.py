"""How much is read of files that other people made."""

from __future__ import annotations

# ImageNet resized to 64 pixels would be 16 GB: more than a zoo of small networks on a CPU has any use for.
MAX_PIXEL_BYTES = 4 * 1024**3
MAX_CLASSES = 10_000
# A text that holds pixels takes about four bytes for each.
MAX_JSON_BYTES = 512 * 1024**2
MAX_IMAGE_FILES = 1_000_000
# Of one picture, once decoded; Pillow warns at 89 million and refuses at twice that.
MAX_PICTURE_PIXELS = 50_000_000
# Folders that are looked into below the one that was named: downloads often unpack into one or two more.
MAX_DEPTH = 3
